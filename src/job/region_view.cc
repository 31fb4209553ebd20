#include "job/region_view.h"

#include <errno.h>

#include <algorithm>

#include "base/mix.h"
#include "policy/ledger.h"
#include "sys/files.h"
#include "sys/proc.h"
#include "sys/publish.h"

namespace softmig::job {
namespace {

// The file as bytes in an array of ours: atomics are then plain words that nobody else writes.
// The counters of a slot that gets a new owner go elsewhere: who looks meanwhile looks again.
constexpr int kAttempts = 3;
constexpr size_t kChunkSlots = 8, kChunkObjects = 16;

uint64_t word(const std::atomic<uint64_t>& from) { return from.load(std::memory_order_relaxed); }

uint64_t bytes_of(uint64_t units) { return (units < UINT32_MAX ? units : UINT32_MAX) * abi::kUnit; }

bool is_region(int fd) {
  sys::FileStatus status;
  return sys::status_of_fd(fd, &status) && status.is_regular() && status.size >= abi::kRegionSize;
}

bool is_ours(const abi::RegionHeader& header) {
  return header.magic == abi::kRegionMagic && header.version == abi::kRegionVersion &&
         header.header_size == sizeof(abi::RegionHeader) &&
         header.slot_size == sizeof(abi::RegionSlot) && header.max_slots == abi::kMaxSlots &&
         header.max_devices == abi::kMaxDevices;
}

void take_header(const abi::RegionHeader& header, RegionView* view) {
  view->created_ns = header.created_ns;
  view->high_water = header.high_water.load(std::memory_order_relaxed);
  if (view->high_water > abi::kMaxSlots) view->high_water = abi::kMaxSlots;
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    const abi::RegionDevice& from = header.device[i];
    if (word(from.key) == 0) continue;
    view->device[i] = {.key = word(from.key),
                       .used = bytes_of(policy::used_units(word(from.use))),
                       .peak = bytes_of(word(from.peak)),
                       .exported = 0,
                       .refusals = word(from.refusals),
                       .gpu_ns = 0,
                       .waited_ns = 0,
                       .launches = 0,
                       .graph_launches = 0,
                       .paid_until_ns = 0,
                       .clock_ns = 0,
                       .fingerprint = 0};
  }
}

// A number that changes when the counters of a dead process are added to those of all the dead.
uint64_t take_shares(int fd, RegionView* view) {
  abi::RegionShare shares[abi::kMaxDevices];
  if (!sys::read_exactly(fd, shares, sizeof shares, offsetof(abi::Region, share))) return 0;
  uint64_t counters = 0;
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    ViewedDevice& to = view->device[i];
    if (to.key == 0) continue;
    to.gpu_ns = word(shares[i].gpu_ns);
    to.waited_ns = word(shares[i].waited_ns);
    to.launches = word(shares[i].launches);
    to.graph_launches = word(shares[i].graph_launches);
    to.paid_until_ns = word(shares[i].paid_until_ns);
    to.clock_ns = word(shares[i].clock_ns);
    for (const uint64_t counter : {to.gpu_ns, to.waited_ns, to.launches, to.graph_launches}) {
      counters = base::mix(counters, counter);
    }
  }
  return counters;
}

void take_objects(int fd, RegionView* view) {
  abi::RegionObject chunk[kChunkObjects];
  for (uint32_t at = 0; at < abi::kMaxObjects; at += kChunkObjects) {
    const uint64_t offset = offsetof(abi::Region, object) + at * sizeof *chunk;
    if (!sys::read_exactly(fd, chunk, sizeof chunk, offset)) return;
    for (const abi::RegionObject& object : chunk) {
      const uint32_t device = object.device.load(std::memory_order_relaxed);
      if (word(object.key) == 0 || device >= abi::kMaxDevices) continue;
      view->device[device].exported += bytes_of(policy::charged_units(word(object.account.charge)));
    }
  }
}

struct Namespaces {
  uint64_t pid, time;
};

// False: nobody's slot, or that of a process which is gone.
bool take_slot(const abi::RegionSlot& slot, const char* proc_root, const Namespaces& mine,
               SlotFilter* filter, ViewedProcess* process) {
  const abi::PackedOwner owner = word(slot.owner);
  const uint32_t pid = policy::owner_pid(owner);
  if (owner == 0 || pid == 0) return false;
  const uint64_t name_space = policy::owner_namespace(slot, owner);
  const bool foreign = name_space != 0 && name_space != mine.pid;
  if (filter->wanted != nullptr && !filter->wanted(filter->context, pid)) {
    if (!foreign || filter->most_foreign == 0) return false;
    filter->most_foreign--;
  }
  *process = {.slot = 0,
              .pid = pid,
              .uid = slot.uid.load(std::memory_order_relaxed),
              .start_ticks = policy::owner_start(owner),
              .owner = owner,
              .pid_namespace = name_space,
              .time_namespace = word(slot.time_namespace),
              .image = policy::is_claim(owner) ? 0 : word(slot.image),
              .foreign = foreign};
  const uint64_t comparable = word(slot.time_namespace) == mine.time ? process->start_ticks : 0;
  if (proc_root != nullptr && !process->foreign && sys::is_gone(proc_root, pid, comparable)) {
    return false;
  }
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    const abi::RegionAccount& account = slot.device[i];
    process->charge[i] = word(account.charge);
    process->bytes[i] = bytes_of(policy::charged_units(process->charge[i]));
    const uint64_t parts = word(account.parts), bytes = process->bytes[i];
    process->context_bytes[i] = std::min(bytes_of(static_cast<uint32_t>(parts)), bytes);
    process->ahead_bytes[i] = std::min(bytes_of(parts >> 32), bytes);
    process->compute[i] = {.gpu_ns = word(account.gpu_ns),
                           .waited_ns = word(account.waited_ns),
                           .launches = word(account.launches),
                           .graph_launches = word(account.graph_launches)};
  }
  return true;
}

// Bytes of every device that slots account for, whoever owns them.
using Accounted = uint64_t[abi::kMaxDevices];

void account_for(const abi::RegionSlot& slot, RegionView* view, Accounted& accounted) {
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    const abi::RegionAccount& account = slot.device[i];
    const abi::PackedCharge charge = word(account.charge);
    accounted[i] += bytes_of(policy::charged_units(charge));
    ViewedDevice& device = view->device[i];
    device.fingerprint = base::mix(device.fingerprint, charge);
    if (device.key == 0) continue;
    device.gpu_ns += word(account.gpu_ns);
    device.waited_ns += word(account.waited_ns);
    device.launches += word(account.launches);
    device.graph_launches += word(account.graph_launches);
  }
}

void take_slots(int fd, uint32_t count, const char* proc_root, RegionView* view, SlotFilter filter,
                Accounted& accounted, ViewedProcess* process, int capacity) {
  const Namespaces mine = {sys::pid_namespace(), sys::time_namespace()};
  abi::RegionSlot chunk[kChunkSlots];
  for (uint32_t at = 0; at < count; at += kChunkSlots) {
    const size_t wanted = count - at < kChunkSlots ? count - at : kChunkSlots;
    const uint64_t offset = offsetof(abi::Region, slot) + at * sizeof *chunk;
    if (!sys::read_exactly(fd, chunk, wanted * sizeof *chunk, offset)) return;
    for (size_t i = 0; i < wanted; i++) {
      account_for(chunk[i], view, accounted);
      ViewedProcess found;
      if (!take_slot(chunk[i], proc_root, mine, &filter, &found)) continue;
      found.slot = at + static_cast<uint32_t>(i);
      view->more = view->more || view->process_count == capacity;
      if (view->process_count < capacity) process[view->process_count++] = found;
    }
  }
}

// Half a megabyte, and most jobs export nothing.
bool has_objects(const RegionView& view, const Accounted& accounted) {
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    if (view.device[i].used > accounted[i]) return true;
  }
  return false;
}

}  // namespace

ViewStatus view_region(const char* path, const char* proc_root, RegionView* view,
                       ViewedProcess* process, int capacity, const SlotFilter& filter) {
  *view = {};
  const int fd = sys::open_untrusted(path);
  if (fd < 0)
    return errno == ENOENT || errno == ENOTDIR ? ViewStatus::kMissing : ViewStatus::kForbidden;
  abi::RegionHeader header;
  if (!is_region(fd) || !sys::read_exactly(fd, &header, sizeof header, 0) || !is_ours(header)) {
    sys::close_file(fd);
    return ViewStatus::kForeign;
  }
  // Should the file be cut while it is read, what was there by then is shown.
  Accounted accounted = {};
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    *view = {};
    take_header(header, view);
    const uint64_t counters = take_shares(fd, view);
    for (uint64_t& bytes : accounted) bytes = 0;
    take_slots(fd, view->high_water, proc_root, view, filter, accounted, process, capacity);
    RegionView after = *view;
    if (take_shares(fd, &after) == counters) break;
  }
  if (has_objects(*view, accounted)) take_objects(fd, view);
  sys::close_file(fd);
  return ViewStatus::kOk;
}

}  // namespace softmig::job
