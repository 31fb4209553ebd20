#include "job/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

#include "base/text.h"
#include "job/log.h"
#include "sys/clock.h"
#include "sys/env.h"
#include "sys/files.h"
#include "sys/proc.h"

namespace softmig::job {
namespace {

using Path = char[kMaxPath];

// Blocks of the header and of the first slots are claimed at once: a full disk is then an error
// here and not a SIGBUS at the first charge.
constexpr size_t kReservedBytes = offsetof(abi::Region, slot) + 16 * sizeof(abi::RegionSlot);

bool has_contents(const abi::RegionHeader& header) {
  return header.magic == abi::kRegionMagic && header.version == abi::kRegionVersion &&
         header.slot_size == sizeof(abi::RegionSlot) && header.max_slots == abi::kMaxSlots;
}

void fill_header(abi::RegionHeader& header) {
  header.version = abi::kRegionVersion;
  header.header_size = sizeof(abi::RegionHeader);
  header.slot_size = sizeof(abi::RegionSlot);
  header.max_slots = abi::kMaxSlots;
  header.max_devices = abi::kMaxDevices;
  header.created_ns = sys::realtime_ns();
  std::atomic_ref<uint64_t>(header.magic).store(abi::kRegionMagic, std::memory_order_release);
}

// A whole region in one file: header written before the name appears.
int write_region(int fd) {
  if (syscall(SYS_ftruncate, fd, abi::kRegionSize) != 0) return errno;
  if (syscall(SYS_fallocate, fd, 0, 0L, kReservedBytes) != 0 && errno != EOPNOTSUPP) return errno;
  alignas(abi::RegionHeader) static char blank[sizeof(abi::RegionHeader)];
  char bytes[sizeof blank];
  __builtin_memcpy(bytes, blank, sizeof bytes);
  fill_header(*new (bytes) abi::RegionHeader);
  return pwrite(fd, bytes, sizeof bytes, 0) == sizeof bytes ? 0 : EIO;
}

bool is_usable(int fd, const Config& config) {
  sys::FileStatus status;
  if (!sys::status_of_fd(fd, &status)) return false;
  const bool mine = status.uid == sys::effective_uid() ||
                    (config.source != Source::kEnvironment && status.uid == 0);
  return status.is_regular() && status.links == 1 && mine && status.size >= abi::kRegionSize;
}

abi::Region* map_file(int fd) {
  void* map = mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* region = static_cast<abi::Region*>(map);
  if (has_contents(region->header)) return region;
  munmap(map, abi::kRegionSize);
  return nullptr;
}

abi::Region* map_private() {
  void* map = mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* region = static_cast<abi::Region*>(map);
  fill_header(region->header);
  return region;
}

int open_existing(const char* path) {
  return sys::open_file(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0);
}

}  // namespace

uint64_t device_key(const policy::Uuid& uuid) {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint8_t byte : uuid.byte) hash = (hash ^ byte) * 0x100000001b3;
  return hash != 0 ? hash : 1;
}

bool region_path(const Places& places, const Config& config, char (&path)[kMaxPath]) {
  base::Text text(path);
  const Identity& who = config.identity;
  if (config.source != Source::kEnvironment && who.job_id != 0) {
    text.add(places.run_dir).add("/").add_number(who.job_id).add(".region");
    if (sys::exists(path)) return true;
    text.clear();
    const char* tmp = sys::variable("SLURM_TMPDIR");
    if (tmp == nullptr || tmp[0] != '/') return false;
    text.add(tmp).add("/cudevshr.cache.").add_number(who.job_id);
    if (who.has_array) text.add(".").add_number(who.array_task);
    return !text.overflowed();
  }
  if (sys::is_secure()) return false;
  if (const char* given = sys::variable("SOFTMIG_REGION"); given != nullptr && given[0] == '/') {
    text.add(given);
    return !text.overflowed();
  }
  if (const char* tmp = sys::variable("SLURM_TMPDIR"); tmp != nullptr && tmp[0] == '/') {
    text.add(tmp).add("/cudevshr.cache");
    if (who.job_id != 0) text.add(".").add_number(who.job_id);
    if (who.job_id != 0 && who.has_array) text.add(".").add_number(who.array_task);
    return !text.overflowed();
  }
  text.add("/tmp/cudevshr.cache.uid").add_number(sys::effective_uid());
  return !text.overflowed();
}

int create_region_file(const char* path, uint32_t uid, uint32_t gid) {
  char temporary[kMaxPath];
  base::Text text(temporary);
  text.add(path).add(".new.").add_number(static_cast<uint64_t>(sys::pid()));
  if (text.overflowed()) return ENAMETOOLONG;
  syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
  const int fd = sys::open_file(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return errno;
  int error = write_region(fd);
  if (error == 0 && uid != sys::effective_uid() && syscall(SYS_fchown, fd, uid, gid) != 0) {
    error = errno;
  }
  close(fd);
  // A link, not a rename: of two processes that start at once, one must lose and join the other.
  if (error == 0 && syscall(SYS_linkat, AT_FDCWD, temporary, AT_FDCWD, path, 0) != 0) error = errno;
  syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
  return error;
}

void open_region(const Places& places, const Config& config, OpenRegion* region) {
  if (region_path(places, config, region->path)) {
    for (int attempt = 0; attempt < 3 && region->map == nullptr; attempt++) {
      int fd = open_existing(region->path);
      if (fd < 0 && errno == ENOENT) {
        const int error = create_region_file(region->path, sys::effective_uid(), 0);
        if (error != 0 && error != EEXIST) break;
        continue;
      }
      if (fd < 0) break;
      if (is_usable(fd, config)) region->map = map_file(fd);
      close(fd);
      if (region->map == nullptr) break;
    }
  }
  region->shared = region->map != nullptr;
  if (region->shared) return;
  log(LogLevel::kError, "region %s cannot be used: limits hold within this process only",
      region->path);
  region->map = map_private();
}

}  // namespace softmig::job
