#include "job/region.h"

#include <cerrno>

#include "base/text.h"
#include "job/log.h"
#include "sys/clock.h"
#include "sys/env.h"
#include "sys/files.h"
#include "sys/make_files.h"
#include "sys/memory.h"

namespace softmig::job {
namespace {

// Blocks of the header and of the first slots are claimed at once: a full disk is then an error
// here and not a SIGBUS at the first charge. Slots beyond them are asked for when they are taken.
constexpr size_t kReservedBytes =
    offsetof(abi::Region, slot) + abi::kReservedSlots * sizeof(abi::RegionSlot);

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

// A whole region in one file: its header is there before the name is.
int write_region(int fd) {
  if (const int error = sys::make_sparse(fd, abi::kRegionSize, kReservedBytes)) return error;
  void* map = sys::map_shared(fd, sizeof(abi::RegionHeader));
  if (map == nullptr) return errno;
  fill_header(*static_cast<abi::RegionHeader*>(map));
  sys::unmap_pages(map, sizeof(abi::RegionHeader));
  return 0;
}

// A process of root in somebody's job, say a query of NVML in a prolog, must not be the one who
// makes the region: the job's user could not open it, and each of his processes would count for
// itself.
bool may_make(const char* path, const Config& config) {
  if (sys::effective_uid() != 0) return true;
  if (config.settings.uid_set && config.settings.uid != 0) return false;
  char folder[kMaxPath];
  base::Text text(folder);
  const std::string_view name(path);
  text.add(base::head(name, name.rfind('/')));
  sys::FileStatus status;
  return !text.overflowed() && sys::status_of_path(folder, &status) && status.uid == 0;
}

bool is_usable(int fd, const Config& config) {
  sys::FileStatus status;
  if (!sys::status_of_fd(fd, &status)) return false;
  const bool mine = status.uid == sys::effective_uid() ||
                    (config.source != Source::kEnvironment && status.uid == 0);
  return status.is_regular() && mine && status.size >= abi::kRegionSize;
}

abi::Region* map_region(int fd) {
  auto* region = static_cast<abi::Region*>(sys::map_shared(fd, abi::kRegionSize));
  if (region == nullptr || has_contents(region->header)) return region;
  sys::unmap_pages(region, abi::kRegionSize);
  return nullptr;
}

// For this process and its fork children, each with a copy of its own: few slots are enough.
abi::Region* make_private_region() {
  constexpr size_t kBytes = offsetof(abi::Region, slot) + 256 * sizeof(abi::RegionSlot);
  auto* region = static_cast<abi::Region*>(sys::map_pages(kBytes));
  if (region != nullptr) fill_header(region->header);
  return region;
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
  sys::remove_file(temporary);
  const int fd = sys::create_file(temporary, 0600);
  if (fd < 0) return errno;
  int error = write_region(fd);
  if (error == 0 && uid != sys::effective_uid()) error = sys::change_owner(fd, uid, gid);
  sys::close_file(fd);
  // Of two processes that start at once, one must lose and join the other.
  if (error == 0) error = sys::rename_to_new(temporary, path);
  if (error != 0) sys::remove_file(temporary);
  return error;
}

void open_region(const Places& places, const Config& config, OpenRegion* region) {
  if (region_path(places, config, region->path)) {
    for (int attempt = 0; attempt < 3 && region->map == nullptr; attempt++) {
      const int fd = sys::open_to_write(region->path);
      if (fd < 0 && errno == ENOENT) {
        if (!may_make(region->path, config)) break;
        const int error = create_region_file(region->path, sys::effective_uid(), 0);
        if (error != 0 && error != EEXIST) break;
        continue;
      }
      if (fd < 0) break;
      if (is_usable(fd, config)) region->map = map_region(fd);
      sys::close_file(fd);
      if (region->map == nullptr) break;
    }
  }
  region->shared = region->map != nullptr;
  if (region->shared) return;
  log(LogLevel::kError, "region %s cannot be used: limits hold within this process only",
      region->path);
  region->map = make_private_region();
}

}  // namespace softmig::job
