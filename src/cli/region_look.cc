#include "cli/region_look.h"

#include <fmt/core.h>
#include <pwd.h>

#include <fstream>

#include "cli/output.h"

namespace softmig::cli {
namespace {

constexpr size_t kUsualProcesses = 64;
constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

int RegionLook::index_of(uint64_t key) const {
  for (int i = 0; i < static_cast<int>(abi::kMaxDevices); i++) {
    if (key != 0 && view.device[i].key == key) return i;
  }
  return -1;
}

RegionLook look_at_region(const std::string& path, const char* proc_root) {
  RegionLook look;
  for (size_t room = kUsualProcesses;; room *= 8) {
    look.processes.assign(room, {});
    look.status = job::view_region(path.c_str(), proc_root, &look.view, look.processes.data(),
                                   static_cast<int>(room));
    if (!look.view.more || room > abi::kMaxSlots) break;
  }
  look.processes.resize(static_cast<size_t>(look.view.process_count));
  return look;
}

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
