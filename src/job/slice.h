// This process's place in its job: mode, limits, region, slot. One per process, made at the first
// CUDA or NVML symbol, made anew in a fork child at its first hook.
#pragma once

#include <atomic>
#include <cstdint>

#include "job/config.h"
#include "job/region.h"
#include "policy/ledger.h"
#include "policy/share.h"
#include "sys/futex.h"
#include "sys/memory.h"

namespace softmig::job {

enum class Mode : int { kUndecided, kPassive, kActive };

// Index of every GPU that has a limit and no place in the region: nothing can be counted there, so
// nothing is granted. Tables by index have room for it.
inline constexpr int kUncounted = abi::kMaxDevices;
inline constexpr int kDeviceIndices = kUncounted + 1;

// Memory of one device as the job may see it, in bytes.
struct DeviceMemory {
  uint64_t limit = 0;  // 0: no limit
  uint64_t used = 0;   // by all processes, what the driver holds beyond the ledger included
};

class Slice {
 public:
  // Passive or active; the answer to the first question lasts until exec. Undecided for as long as
  // there is no memory for the ledger of a job that has limits.
  Mode mode() {
    const Mode mode = mode_.load(std::memory_order_acquire);
    if (__builtin_expect(mode == Mode::kPassive, 1)) return mode;
    if (__builtin_expect(
            mode == Mode::kActive && fork_mark_->here.load(std::memory_order_acquire) != 0, 1))
      return mode;
    return decide();
  }

  const policy::Settings& settings() const { return config_.settings; }
  const Config& config() const { return config_; }
  // Changes with every fork: caches of charges from before it are not this process's.
  uint32_t generation() const { return generation_.load(std::memory_order_relaxed); }

  // Enters a GPU; `ordinal` is its place in the job's device order or -1. Returns its index in the
  // region. If that is full of other GPUs: kUncounted, or -1 where this one has no limit.
  int add_device(const policy::Uuid& uuid, int ordinal);
  // The same by somebody who counts devices in an order that may be another (NVML): `guess` holds
  // until add_device says better, and never replaces what that has said.
  int add_device_by_guess(const policy::Uuid& uuid, int guess);
  uint64_t device_name(int device) const { return devices_[device].key; }

  // Takes `bytes` of a device for this process. False: the limit, all looked for dead processes
  // included, does not allow it.
  bool reserve(int device, uint64_t bytes);
  // As reserve, but neither looks for the dead nor counts a refusal.
  bool try_reserve(int device, uint64_t bytes);
  // Counts and logs a request that was answered with OUT_OF_MEMORY.
  void count_refusal(int device, uint64_t bytes);
  // Takes it whatever the limit says: for what the driver already holds.
  void charge(int device, uint64_t bytes);
  void release(int device, uint64_t bytes);
  // Marks bytes of this process's charge, for who looks from outside: as held by contexts, or as
  // reserved ahead of what its pools hold; less of them if negative.
  void note_context(int device, int64_t bytes);
  void note_ahead(int device, int64_t bytes);

  DeviceMemory memory(int device);
  // As memory, for views: looks for the dead first if the last look is some time ago.
  DeviceMemory view(int device);
  // True if the process with this pid (as seen here) belongs to this job's region.
  bool is_member(uint32_t pid);

  // True from the moment on in which any device has a limit of GPU time.
  bool limits_compute() const { return limits_compute_.load(std::memory_order_relaxed); }
  // What holds for a device now; percent 0: no limit.
  policy::ShareRule share_rule(int device) const;
  abi::RegionShare& share(int device) { return region_.map->share[device]; }
  std::span<abi::RegionShare> shares() const { return region_.map->share; }
  // Whether the job's processes use more than one device.
  bool has_several_devices() const { return region_.map->header.device[1].key != 0; }
  abi::RegionBusy& busy(int device) { return region_.map->busy[device]; }
  // job/board.h for the slots of a device; without a board nothing is claimed and none is open.
  void claim_slots(int device, const policy::ShareRule& rule, uint64_t until_ns);
  uint32_t open_slots(int device, const policy::ShareRule& rule, uint64_t now);
  void tell_turn(int device, const policy::Notice& notice);
  void read_turns(int device, const policy::ShareRule& rule, policy::TurnBoard& board);
  // This process's own account of a device, null if it has no slot.
  abi::RegionAccount* account(int device);
  int slot() const { return slot_.load(std::memory_order_relaxed); }

  // Exported memory (policy/ledger.h). Sizes in bytes, results as there.
  int make_object(uint64_t key, int device, uint64_t bytes);
  int hold_object(uint64_t key);
  int hold_marked_object(uint32_t mark, uint32_t pid);
  uint64_t object_bytes(int object);
  void drop_object(int object);

  // Frees the slots of processes that have been dead for a moment. True if some were found that
  // died just now: what they held is on its way back to the driver.
  bool reclaim_dead();
  // As wait_for_dead, unless that was done a moment ago; then false.
  bool search_for_dead();
  // As reclaim_dead, and waits that moment for those that died just now.
  void wait_for_dead();
  // Looks at the config if the last look is a second old, at the extra page ten times as often.
  void refresh();
  bool refresh_is_due(uint64_t now) const {
    return now >= next_look_ns_.load(std::memory_order_relaxed);
  }

 private:
  struct Device {
    uint64_t key = 0;
    int limit_index = -1;
    std::atomic<uint64_t> limit_units{policy::kNoLimit};
    std::atomic<uint64_t> extra_units{0};
    std::atomic<uint64_t> share_rule{0};  // packed: one word, so that it changes at once
    sys::Mutex lock;
  };

  [[gnu::cold]] Mode decide();
  void start();
  void restart_after_fork();
  bool join();
  bool is_alive(const abi::RegionSlot& slot, abi::PackedOwner owner) const;
  policy::Change change(int device, int64_t units);
  uint64_t room_limit(const Device& device) const;
  int enter(const policy::Uuid& uuid, int ordinal, bool is_guess);
  int uncounted(int limit_index);
  void apply_limits();
  void read_extra();
  void note_part(int device, int64_t bytes, int shift);

  // One cache line, up to the map of the region, holds what every call reads: the driver's own work
  // leaves little of ours in the caches.
  alignas(64) std::atomic<Mode> mode_{Mode::kUndecided};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> limits_compute_{false};
  sys::ForkMark* fork_mark_ = nullptr;
  std::atomic<int> slot_{-1};
  std::atomic<int> device_count_{0};
  std::atomic<uint64_t> next_look_ns_{0};
  std::atomic<uint64_t> next_extra_ns_{0};
  OpenRegion region_;
  std::atomic<uint64_t> next_reclaim_ns_{0};
  std::atomic<uint64_t> next_search_ns_{0};
  Device devices_[abi::kMaxDevices];
  std::atomic<uint64_t> starting_{0};  // the lock of start(): its holder, as pack_owner
  sys::Mutex lock_;                    // joining and looking at the config
  abi::PackedOwner owner_ = 0;
  uint64_t pid_namespace_ = 0;
  uint64_t time_namespace_ = 0;
  std::atomic<bool> told_of_uncounted_{false};
  Config config_;
  char board_[sizeof(policy::Settings::board)] = {};
};

extern constinit Slice g_slice;
inline Slice& slice() { return g_slice; }

}  // namespace softmig::job
