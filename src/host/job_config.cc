#include "host/job_config.h"

#include <fmt/core.h>

#include <string_view>

#include "base/text.h"
#include "host/text.h"
#include "job/trusted_file.h"
#include "sys/files.h"

namespace softmig::host {
namespace {

constexpr std::string_view kConfigEnd = ".conf";

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 20 &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

std::string job_of_config_name(const std::string& name) {
  if (!name.ends_with(kConfigEnd)) return {};
  const std::string_view stem(name.data(), name.size() - kConfigEnd.size());
  const size_t bar = stem.find('_');
  const bool sound = is_number(stem.substr(0, bar)) &&
                     (bar == std::string_view::npos || is_number(stem.substr(bar + 1)));
  return sound ? std::string(stem) : std::string();
}

bool read_job_config(const job::Places& places, const std::string& name, policy::Settings* settings,
                     std::string* error) {
  char text[sizeof job::Config::error] = {};
  base::Text trouble(text);
  sys::FileStatus status;
  bool absent = false;
  const job::RunDirectory folder(places);
  const int fd = folder.open(name.c_str(), &status, &absent, trouble);
  *error = text;
  if (fd < 0) return false;
  sys::LineReader lines(fd);
  std::string_view line;
  for (int number = 1; lines.next(&line) && error->empty(); number++) {
    const policy::ParseStatus result = policy::parse_line(line, settings);
    if (result == policy::ParseStatus::kOk || result == policy::ParseStatus::kUnknownKey) continue;
    *error = fmt::format("{}:{}: {}", name, number, printable(line));
  }
  sys::close_file(fd);
  return error->empty();
}

}  // namespace softmig::host
