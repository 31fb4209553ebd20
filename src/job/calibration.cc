#include "job/calibration.h"

#include <charconv>

#include "sys/files.h"
#include "sys/self.h"

namespace softmig::job {
namespace {

std::string_view next_field(std::string_view* line) {
  const size_t tab = line->find('\t');
  const std::string_view field = line->substr(0, tab);
  line->remove_prefix(tab == std::string_view::npos ? line->size() : tab + 1);
  return field;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.remove_suffix(1);
  }
  return text;
}

}  // namespace

bool find_context_cost(std::string_view file, std::string_view driver, std::string_view gpu_name,
                       uint64_t* bytes) {
  while (!file.empty()) {
    const size_t newline = file.find('\n');
    std::string_view line = trimmed(file.substr(0, newline));
    file.remove_prefix(newline == std::string_view::npos ? file.size() : newline + 1);
    if (line.empty() || line.front() == '#') continue;
    const std::string_view line_driver = next_field(&line), line_name = next_field(&line);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error != std::errc() || end != line.data() + line.size() || value == 0) continue;
    if (line_name != gpu_name || (!driver.empty() && line_driver != driver)) continue;
    *bytes = value;
    return true;
  }
  return false;
}

bool calibrated_context_cost(std::string_view gpu_name, uint64_t* bytes) {
  const sys::ErrnoGuard keep_errno;
  char file[8192], version[64];
  sys::FileStatus status;
  if (!sys::status_of_path(kCalibrationFile, &status) || status.uid != 0) return false;
  const long size = sys::read_small(kCalibrationFile, file, sizeof file);
  if (size <= 0) return false;
  const long length = sys::read_small("/sys/module/nvidia/version", version, sizeof version);
  const std::string_view driver(version, length > 0 ? static_cast<size_t>(length) : 0);
  return find_context_cost({file, static_cast<size_t>(size)}, trimmed(driver), gpu_name, bytes);
}

}  // namespace softmig::job
