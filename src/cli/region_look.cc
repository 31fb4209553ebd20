#include "cli/region_look.h"

#include <fmt/core.h>
#include <pwd.h>

#include <fstream>

#include "cli/output.h"

namespace softmig::cli {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

const char* region_trouble(job::ViewStatus status) {
  switch (status) {
    case job::ViewStatus::kOk:
      return "";
    case job::ViewStatus::kMissing:
      return "not made yet: no process has used a GPU";
    case job::ViewStatus::kForbidden:
      return "cannot be read";
    case job::ViewStatus::kForeign:
      return "not a region: limits hold within each process only";
  }
  return "";
}

std::string process_name(uint32_t pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(file, name);
  return name.empty() ? "?" : printable(name);
}

std::string user_name(uint32_t uid) {
  const passwd* entry = getpwuid(uid);
  return entry != nullptr ? printable(entry->pw_name) : std::to_string(uid);
}

std::string duration_text(uint64_t ns) {
  const uint64_t seconds = ns / kSecond;
  if (seconds < 60) return fmt::format("{:.1f} s", static_cast<double>(ns) / kSecond);
  if (seconds < 3600) return fmt::format("{} min {} s", seconds / 60, seconds % 60);
  return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
}

}  // namespace softmig::cli
