#include "agent/reclaim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <filesystem>

#include "agent/process_table.h"
#include "policy/ledger.h"
#include "sys/proc.h"

namespace softmig::agent {
namespace {

constexpr uint64_t kFirstPidNamespace = 0xEFFFFFFC;  // of the machine itself, fixed in the kernel
constexpr unsigned kMostSeconds = 2;

// From here on as the user, whose signals and debugger must not reach what root had.
bool become(uid_t uid, gid_t gid) {
  return syscall(SYS_setgroups, 0, nullptr) == 0 && syscall(SYS_setresgid, gid, gid, gid) == 0 &&
         syscall(SYS_setresuid, uid, uid, uid) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0;
}

bool is_region(const abi::Region& region) {
  return region.header.magic == abi::kRegionMagic && region.header.version == abi::kRegionVersion;
}

// The child of a process with threads: system calls and arithmetic alone.
[[noreturn]] void reclaim_as_owner(int fd, const struct stat& status,
                                   const std::vector<DeadSlot>& slots) {
  signal(SIGBUS, SIG_DFL);
  alarm(kMostSeconds);
  // Root's own regions are nobody's to forge.
  if (status.st_uid != geteuid() && !become(status.st_uid, status.st_gid)) _exit(2);
  void* map = mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) _exit(3);
  auto& region = *static_cast<abi::Region*>(map);
  if (!is_region(region)) _exit(4);
  for (const DeadSlot& dead : slots) policy::reclaim_slot(region, dead.slot, dead.owner);
  _exit(0);
}

}  // namespace

int reclaim_slots(const std::string& region, const std::vector<DeadSlot>& slots) {
  const int fd = open(region.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return 0;
  struct stat status = {};
  const bool sound = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                     static_cast<uint64_t>(status.st_size) >= abi::kRegionSize;
  const pid_t child = sound ? fork() : -1;
  if (child == 0) reclaim_as_owner(fd, status, slots);
  close(fd);
  return child > 0 ? child : 0;
}

void SlotJudge::scan(uint64_t now_ns) {
  if (scanned_ns_ != 0 && now_ns - scanned_ns_ < kApartNs) return;
  scanned_ns_ = now_ns;
  living_.clear();
  std::error_code ended;
  std::filesystem::directory_iterator entry(proc_, ended);
  for (; !ended && entry != std::filesystem::directory_iterator(); entry.increment(ended)) {
    const std::string name = entry->path().filename();
    uint32_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    Inner inner = {};
    if (!read_inner_pid(proc_, pid, &inner.pid, &inner.pid_namespace)) continue;
    const sys::ProcessState state = sys::process_state(proc_.c_str(), static_cast<int>(pid));
    namespaces_.insert(inner.pid_namespace);
    if (!state.exists || state.dead) continue;
    inner.start_ticks = state.start_ticks & abi::kStartMask;
    living_.insert(inner);
  }
}

bool SlotJudge::lives(const job::ViewedProcess& process) const {
  // In a namespace that may not be below ours: nobody can tell.
  if (process.pid_namespace == 0) return true;
  const bool below =
      sys::pid_namespace() == kFirstPidNamespace || namespaces_.contains(process.pid_namespace);
  if (!below) return true;
  const bool comparable =
      process.start_ticks != 0 && process.time_namespace == sys::time_namespace();
  const auto first = living_.lower_bound({process.pid_namespace, process.pid, 0});
  for (auto inner = first; inner != living_.end(); ++inner) {
    if (inner->pid_namespace != process.pid_namespace || inner->pid != process.pid) break;
    if (!comparable || inner->start_ticks == process.start_ticks) return true;
  }
  return false;
}

std::vector<DeadSlot> SlotJudge::dead(const std::string& region, const host::RegionLook& look,
                                      uint64_t now_ns) {
  const std::map<Slot, uint64_t> before = std::move(suspects_[region]);
  std::map<Slot, uint64_t> kept;
  std::vector<DeadSlot> found;
  for (const job::ViewedProcess& process : look.processes) {
    if (!process.foreign) continue;
    scan(now_ns);
    if (lives(process)) continue;
    const Slot slot = {process.slot, process.owner};
    const auto suspected = before.find(slot);
    const uint64_t since = suspected == before.end() ? now_ns : suspected->second;
    // The scan must be a second one, too.
    if (now_ns - since >= kApartNs && scanned_ns_ > since) {
      found.push_back({process.slot, process.owner});
    } else {
      kept.emplace(slot, since);
    }
  }
  if (kept.empty()) {
    suspects_.erase(region);
  } else {
    suspects_[region] = std::move(kept);
  }
  return found;
}

void SlotJudge::forget(const std::string& region) { suspects_.erase(region); }

}  // namespace softmig::agent
