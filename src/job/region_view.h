// A look at a job's region from outside, without mapping it: its user may cut the file or fill it
// with anything. Everything that is read here is bounded and checked.
#pragma once

#include <cstdint>

#include "abi/region.h"

namespace softmig::job {

struct ViewedDevice {
  uint64_t key = 0;   // as abi::RegionDevice::key, 0: unused
  uint64_t used = 0;  // bytes, as are the next two
  uint64_t peak = 0;
  uint64_t exported = 0;  // of `used`: charged to exported memory, not to a process
  uint64_t refusals = 0;
  // Compute: GPU time charged and time that launches waited at the gate, in ns, and how many.
  uint64_t gpu_ns = 0, waited_ns = 0, launches = 0, graph_launches = 0;
  // CLOCK_MONOTONIC: up to here the share of GPU time is spent, and the job's last reading.
  uint64_t paid_until_ns = 0, clock_ns = 0;
  // Of all charges of its slots: another number once any of them was changed.
  uint64_t fingerprint = 0;
};

// The compute counters of one process on one device, as in ViewedDevice.
struct ViewedCompute {
  uint64_t gpu_ns = 0, waited_ns = 0, launches = 0, graph_launches = 0;
};

struct ViewedProcess {
  uint32_t slot = 0;            // its number in the region
  uint32_t pid = 0;             // in the pid namespace `pid_namespace`
  uint32_t uid = 0;             // as it said itself
  uint64_t start_ticks = 0;     // its abi::kStartMask; 0: it is about to take the slot
  abi::PackedOwner owner = 0;   // the word that says both
  uint64_t pid_namespace = 0;   // 0: not told yet
  uint64_t time_namespace = 0;  // start times of another one mean nothing
  uint64_t image = 0;           // as sys::ProcessState::image, 0: not known
  bool foreign = false;         // in a pid namespace that is not the caller's: may be dead
  uint64_t bytes[abi::kMaxDevices] = {};
  uint64_t context_bytes[abi::kMaxDevices] = {};  // of `bytes`
  uint64_t ahead_bytes[abi::kMaxDevices] = {};    // of `bytes`: pools may not hold them yet
  ViewedCompute compute[abi::kMaxDevices] = {};
  abi::PackedCharge charge[abi::kMaxDevices] = {};  // the words themselves
};

struct RegionView {
  uint64_t created_ns = 0;  // CLOCK_REALTIME
  uint32_t high_water = 0;  // slots ever used
  ViewedDevice device[abi::kMaxDevices];
  int process_count = 0;  // entries filled in the caller's array
  bool more = false;      // there were more processes than the array holds
};

enum class ViewStatus {
  kOk,
  kMissing,    // no such file
  kForbidden,  // cannot be opened
  kForeign,    // not a region: no regular file, too short, other magic or sizes
};

// Which processes are wanted: a region has room for 32768, and its user can fill it with them.
struct SlotFilter {
  bool (*wanted)(const void* context, uint32_t pid) = nullptr;  // null: all
  const void* context = nullptr;
  uint32_t most_foreign = 0;  // of other pid namespaces so many that are not wanted, all the same
};

// Reads the region at `path`. With a `proc_root` ("/proc"), processes of the caller's pid namespace
// that are gone are left out; null lists every slot with an owner. At most `capacity` processes are
// written to `process` (null with 0 is fine).
ViewStatus view_region(const char* path, const char* proc_root, RegionView* view,
                       ViewedProcess* process, int capacity, const SlotFilter& filter = {});

}  // namespace softmig::job
