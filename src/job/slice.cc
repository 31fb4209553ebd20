#include "job/slice.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/text.h"
#include "job/board.h"
#include "job/extra.h"
#include "job/log.h"
#include "sys/clock.h"
#include "sys/memory.h"
#include "sys/proc.h"

namespace softmig::job {
namespace {

using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

constexpr uint64_t kLookIntervalNs = 1'000'000'000;
// More often: a library's code may have been loaded just before a program takes all that is free.
constexpr uint64_t kExtraIntervalNs = 100'000'000;
// How often it is asked for memory that was not there.
constexpr uint64_t kRetryNs = 10'000'000;
constexpr uint64_t kReclaimIntervalNs = 10'000'000;  // for views
// For refusals, of which a program may make many: after a search comes a pause as long as it took,
// in which they do not search.
constexpr uint64_t kLongestPauseNs = 300'000;
// The driver gives back what a process held a little after the process is gone.
constexpr uint64_t kDeathGraceNs = 4'000'000;

// Made where it is used: a constant of pointers would have to be relocated at every start.
Places places() { return {}; }

// True once per interval, for one of all callers.
bool is_due(std::atomic<uint64_t>& next_ns, uint64_t interval_ns) {
  const uint64_t now = sys::coarse_ns();
  uint64_t due = next_ns.load(memory_order_relaxed);
  return now >= due && next_ns.compare_exchange_strong(due, now + interval_ns);
}

// percent:7 | mode:2 | number of slots:6 | frame in ms:10 | mask of slots:32
uint64_t pack_rule(const policy::ShareRule& rule) {
  return rule.percent | static_cast<uint64_t>(rule.mode) << 7 | uint64_t{rule.slot_count} << 9 |
         rule.frame_ns / 1'000'000 << 15 | uint64_t{rule.slot_mask} << 25;
}

policy::ShareRule unpack_rule(uint64_t word) {
  return {.percent = static_cast<uint32_t>(word & 0x7f),
          .mode = static_cast<policy::ShareMode>(word >> 7 & 3),
          .slot_mask = static_cast<uint32_t>(word >> 25),
          .slot_count = static_cast<uint32_t>(word >> 9 & 0x3f),
          .frame_ns = (word >> 15 & 0x3ff) * 1'000'000};
}

class Guard {
 public:
  explicit Guard(sys::Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Guard() { mutex_.unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  sys::Mutex& mutex_;
};

bool is_backed(const abi::RegionSlot& slot) {
  return sys::is_backed(&slot) && sys::is_backed(reinterpret_cast<const uint32_t*>(&slot + 1) - 1);
}

// The slot of what this process was before an execve: pid and start time are the same.
bool is_earlier_self(const abi::RegionSlot& slot, abi::PackedOwner owner, abi::PackedOwner self,
                     uint64_t pid_namespace) {
  return owner != 0 && !policy::is_claim(owner) &&
         policy::owner_pid(owner) == policy::owner_pid(self) &&
         policy::owner_start(owner) == policy::owner_start(self) &&
         slot.pid_namespace.load(memory_order_relaxed) == pid_namespace;
}

// Another name than before an execve: somebody may still be taking back what that image held, and
// must not take this one for it.
abi::PackedOwner own_name(const abi::Region& region, uint32_t pid, const sys::ProcessState& self,
                          uint64_t pid_namespace) {
  uint64_t lives = 0;
  const uint32_t high = region.header.high_water.load(memory_order_acquire);
  const abi::PackedOwner name = policy::pack_owner(pid, self.start_ticks);
  for (uint32_t i = 0; i < high && i < abi::kMaxSlots; i++) {
    const abi::PackedOwner owner = region.slot[i].owner.load(memory_order_acquire);
    if (is_earlier_self(region.slot[i], owner, name, pid_namespace)) {
      lives |= uint64_t{1} << policy::owner_life(owner);
    }
  }
  auto life = static_cast<uint32_t>(self.image * 0x9e3779b97f4a7c15 >> 58);
  while ((~lives) != 0 && (lives >> life % policy::kLives & 1) != 0) life++;
  return policy::pack_owner(pid, self.start_ticks, life);
}

}  // namespace

constinit Slice g_slice;

Mode Slice::decide() {
  const sys::ErrnoGuard keep_errno;
  // A handler that comes here while its own thread starts would wait for ever.
  const sys::SignalBlock no_handlers;
  if (mode_.load(memory_order_acquire) == Mode::kActive) {
    restart_after_fork();
    return Mode::kActive;
  }
  // The lock names the process that holds it: a fork in the midst of start() leaves the child one
  // whose holder does not exist there, and the child takes it over.
  const abi::PackedOwner self =
      policy::pack_owner(static_cast<uint32_t>(sys::pid()), sys::own_start_ticks());
  uint64_t holder = 0;
  while (!starting_.compare_exchange_weak(holder, self, memory_order_acquire)) {
    if (holder != self) continue;
    sys::yield();
    holder = 0;
  }
  const bool due = sys::coarse_ns() >= next_look_ns_.load(memory_order_relaxed);
  if (due && mode_.load(memory_order_acquire) == Mode::kUndecided) start();
  starting_.store(0, memory_order_release);
  return mode_.load(memory_order_acquire);
}

void Slice::start() {
  load_config(places(), &config_);
  if (config_.source == Source::kNone ||
      (config_.source != Source::kClosed && !config_.settings.limits_anything())) {
    mode_.store(Mode::kPassive, memory_order_release);
    return;
  }
  log_configure(places(), config_);
  if (config_.source == Source::kClosed) log(LogLevel::kError, "%-s", config_.error);
  if (fork_mark_ == nullptr) fork_mark_ = sys::make_fork_mark();
  open_region(places(), config_, &region_);
  pid_namespace_ = sys::pid_namespace();
  time_namespace_ = sys::time_namespace();
  next_look_ns_.store(sys::coarse_ns() + kLookIntervalNs, memory_order_relaxed);
  if (region_.map == nullptr) {
    // Not decided: a limit of the address space at the first call would be a way out for ever.
    log(LogLevel::kError, "no memory for the ledger: limits hold from when there is some");
    next_look_ns_.store(sys::coarse_ns() + kRetryNs, memory_order_relaxed);
    return;
  }
  // Where the board is does not change while a job runs, so that it is read without a lock.
  __builtin_memcpy(board_, config_.settings.board, sizeof board_);
  apply_limits();
  mode_.store(Mode::kActive, memory_order_release);
  log(LogLevel::kInfo, "active: limits from %s, region %s",
      config_.path[0] != 0 ? config_.path : "the environment", region_.path);
}

// In a fork child the parent's slot, locks and records are somebody else's. The first thread that
// comes here sees to that, the others wait.
void Slice::restart_after_fork() {
  uint32_t taken = 0;
  if (fork_mark_->taken.compare_exchange_strong(taken, 1)) {
    lock_.reset();
    for (Device& device : devices_) device.lock.reset();
    log_after_fork();
    owner_ = 0;
    slot_.store(-1, memory_order_release);
    pid_namespace_ = sys::pid_namespace();
    time_namespace_ = sys::time_namespace();
    generation_.fetch_add(1, memory_order_release);
    fork_mark_->here.store(1, memory_order_release);
  }
  while (fork_mark_->here.load(memory_order_acquire) == 0) sys::yield();
}

bool Slice::join() {
  Guard guard(lock_);
  if (slot_.load(memory_order_acquire) >= 0) return true;
  const auto pid = static_cast<uint32_t>(sys::pid());
  const sys::ErrnoGuard keep_errno;
  const sys::ProcessState self = sys::own_state();
  owner_ = own_name(*region_.map, pid, self, pid_namespace_);
  // What the image before an execve held is gone.
  const uint32_t high = region_.map->header.high_water.load(memory_order_acquire);
  for (uint32_t i = 0; i < high && i < abi::kMaxSlots; i++) {
    const abi::PackedOwner owner = region_.map->slot[i].owner.load(memory_order_relaxed);
    if (is_earlier_self(region_.map->slot[i], owner, owner_, pid_namespace_)) {
      policy::reclaim_slot(*region_.map, i, owner);
    }
  }
  const policy::Claimant claimant = {owner_, pid_namespace_, time_namespace_, sys::effective_uid(),
                                     self.image};
  int slot = policy::claim_slot(*region_.map, claimant, is_backed);
  if (slot < 0) {
    reclaim_dead();
    slot = policy::claim_slot(*region_.map, claimant, is_backed);
  }
  if (slot < 0) {
    log(LogLevel::kError, "region %s: all %u places are taken, or its disk is full", region_.path,
        abi::kMaxSlots);
    return false;
  }
  policy::keep_counters_of_the_dead(*region_.map, static_cast<uint32_t>(slot));
  slot_.store(slot, memory_order_release);
  return true;
}

int Slice::add_device(const policy::Uuid& uuid, int ordinal) { return enter(uuid, ordinal, false); }
int Slice::add_device_by_guess(const policy::Uuid& uuid, int guess) {
  return enter(uuid, guess, true);
}

int Slice::enter(const policy::Uuid& uuid, int ordinal, bool is_guess) {
  const sys::ErrnoGuard keep_errno;
  const uint64_t key = device_key(uuid);
  const int device = policy::region_device(*region_.map, key);
  const int limit_index = policy::device_index(config_.settings, uuid, ordinal);
  if (device < 0) return uncounted(limit_index);
  if (is_guess && devices_[device].key != 0) return device;
  devices_[device].limit_index = limit_index;
  devices_[device].key = key;
  if (device >= device_count_.load(memory_order_relaxed)) device_count_.store(device + 1);
  apply_limits();
  read_extra();
  return device;
}

int Slice::uncounted(int limit_index) {
  const policy::Settings& settings = config_.settings;
  if (config_.source != Source::kClosed && policy::memory_limit(settings, limit_index) == 0 &&
      policy::sm_limit(settings, limit_index) == 0) {
    return -1;
  }
  if (!told_of_uncounted_.exchange(true)) {
    log(LogLevel::kError, "region %s names %u other GPUs: nothing is granted on one more",
        region_.path, abi::kMaxDevices);
  }
  return kUncounted;
}

void Slice::apply_limits() {
  for (Device& device : devices_) {
    if (device.key == 0) continue;
    uint64_t limit = policy::memory_limit(config_.settings, device.limit_index);
    uint64_t units = limit == 0 ? policy::kNoLimit : limit / abi::kUnit;
    if (config_.source == Source::kClosed) units = 0;
    device.limit_units.store(units, memory_order_relaxed);
    device.share_rule.store(pack_rule(policy::share_rule(config_.settings, device.limit_index)),
                            memory_order_relaxed);
  }
  if (config_.settings.sm.any(policy::kFullShare)) {
    limits_compute_.store(true, memory_order_relaxed);
  }
}

policy::ShareRule Slice::share_rule(int device) const {
  return unpack_rule(devices_[device].share_rule.load(memory_order_relaxed));
}

void Slice::claim_slots(int device, const policy::ShareRule& rule, uint64_t until_ns) {
  if (board_[0] == '\0') return;
  const sys::ErrnoGuard keep_errno;
  job::claim_slots(board_, devices_[device].key, rule.slot_mask, until_ns);
}

uint32_t Slice::open_slots(int device, const policy::ShareRule& rule, uint64_t now) {
  if (board_[0] == '\0') return 0;
  const sys::ErrnoGuard keep_errno;
  return job::open_slots(board_, devices_[device].key, rule.slot_count, rule.slot_mask, now);
}

void Slice::tell_turn(int device, const policy::Notice& notice) {
  if (board_[0] == '\0') return;
  const sys::ErrnoGuard keep_errno;
  job::tell_turn(board_, devices_[device].key, notice);
}

void Slice::read_turns(int device, const policy::ShareRule& rule, policy::TurnBoard& board) {
  if (board_[0] == '\0') return;
  const sys::ErrnoGuard keep_errno;
  job::read_turns(board_, devices_[device].key, rule.slot_count, rule.slot_mask, board);
}

abi::RegionAccount* Slice::account(int device) {
  if (slot_.load(memory_order_acquire) < 0 && !join()) return nullptr;
  return &region_.map->slot[slot_.load(memory_order_relaxed)].device[device];
}

void Slice::read_extra() {
  const sys::ErrnoGuard keep_errno;
  if (!region_.shared) return;
  abi::ExtraPage page;
  if (!read_extra_page(region_.path, &page)) return;
  for (Device& device : devices_) {
    if (device.key == 0) continue;
    uint64_t units = 0;
    for (uint32_t i = 0; i < page.device_count; i++) {
      if (page.device[i].key == device.key) units = policy::units_for(page.device[i].bytes);
    }
    device.extra_units.store(units, memory_order_relaxed);
  }
}

void Slice::refresh() {
  if (!is_due(next_extra_ns_, kExtraIntervalNs)) return;
  const sys::ErrnoGuard keep_errno;
  Guard guard(lock_);
  read_extra();
  if (!is_due(next_look_ns_, kLookIntervalNs)) return;
  if (!config_changed(places(), config_)) return;
  if (reload_config(places(), &config_)) {
    log(LogLevel::kWarning, "limits were changed: %s", config_.path);
  }
  if (config_.error[0] != 0) log(LogLevel::kError, "%-s", config_.error);
  log_configure(places(), config_);
  apply_limits();
}

// The limit for the ledger alone: what the driver holds beyond it is taken off.
uint64_t Slice::room_limit(const Device& device) const {
  const uint64_t limit = device.limit_units.load(memory_order_relaxed);
  if (limit == policy::kNoLimit) return limit;
  const uint64_t extra = device.extra_units.load(memory_order_relaxed);
  return limit > extra ? limit - extra : 0;
}

policy::Change Slice::change(int device, int64_t units) {
  Device& mine = devices_[device];
  const uint64_t limit = room_limit(mine);
  Guard guard(mine.lock);
  return policy::change_use(*region_.map, static_cast<uint32_t>(slot_.load(memory_order_relaxed)),
                            static_cast<uint32_t>(device), units, limit);
}

bool Slice::try_reserve(int device, uint64_t bytes) {
  if (device == kUncounted) return false;
  if (slot_.load(memory_order_acquire) < 0 && !join()) return false;
  const uint64_t units = policy::units_for(bytes);
  if (units > INT32_MAX) return false;
  return change(device, static_cast<int64_t>(units)) == policy::Change::kDone;
}

bool Slice::reserve(int device, uint64_t bytes) {
  refresh();
  if (try_reserve(device, bytes)) return true;
  if (slot_.load(memory_order_acquire) >= 0) {
    if (search_for_dead() && try_reserve(device, bytes)) return true;
  }
  count_refusal(device, bytes);
  return false;
}

void Slice::count_refusal(int device, uint64_t bytes) {
  if (device == kUncounted) return;
  region_.map->header.device[device].refusals.fetch_add(1, memory_order_relaxed);
  if (log_enabled(LogLevel::kWarning)) {
    const DeviceMemory now = memory(device);
    log(LogLevel::kWarning, "refused %llu bytes on device %d: %llu of %llu are used",
        static_cast<unsigned long long>(bytes), device, static_cast<unsigned long long>(now.used),
        static_cast<unsigned long long>(now.limit));
  }
}

void Slice::charge(int device, uint64_t bytes) {
  if (bytes == 0 || device == kUncounted || (slot_.load(memory_order_acquire) < 0 && !join()))
    return;
  Device& mine = devices_[device];
  Guard guard(mine.lock);
  policy::change_use(*region_.map, static_cast<uint32_t>(slot_.load(memory_order_relaxed)),
                     static_cast<uint32_t>(device), static_cast<int64_t>(policy::units_for(bytes)),
                     policy::kNoLimit);
}

void Slice::release(int device, uint64_t bytes) {
  if (bytes == 0 || device == kUncounted || slot_.load(memory_order_acquire) < 0) return;
  change(device, -static_cast<int64_t>(policy::units_for(bytes)));
}

void Slice::note_context(int device, int64_t bytes) { note_part(device, bytes, 0); }

void Slice::note_ahead(int device, int64_t bytes) { note_part(device, bytes, 32); }

void Slice::note_part(int device, int64_t bytes, int shift) {
  const int slot = slot_.load(memory_order_acquire);
  if (slot < 0 || device == kUncounted || bytes == 0) return;
  const int64_t units = bytes / static_cast<int64_t>(abi::kUnit);
  region_.map->slot[slot].device[device].parts.fetch_add(static_cast<uint64_t>(units) << shift,
                                                         memory_order_relaxed);
}

DeviceMemory Slice::memory(int device) {
  if (device == kUncounted) return {UINT64_MAX, UINT64_MAX};  // all of the card, and nothing free
  const Device& mine = devices_[device];
  const uint64_t limit = mine.limit_units.load(memory_order_relaxed);
  const uint64_t used =
      policy::used_units(region_.map->header.device[device].use.load(memory_order_relaxed));
  return {limit == policy::kNoLimit ? 0 : limit * abi::kUnit,
          (used + mine.extra_units.load(memory_order_relaxed)) * abi::kUnit};
}

DeviceMemory Slice::view(int device) {
  refresh();
  if (is_due(next_reclaim_ns_, kReclaimIntervalNs)) wait_for_dead();
  return memory(device);
}

// Where start times cannot be compared the pid alone decides: memory of the dead may then be kept
// by whoever has that pid now, but never taken from the living.
bool Slice::is_alive(const abi::RegionSlot& slot, abi::PackedOwner owner) const {
  if (policy::is_claim(owner)) return !sys::is_gone(places().proc, policy::owner_pid(owner), 0);
  const bool comparable = slot.time_namespace.load(memory_order_relaxed) == time_namespace_;
  return !sys::is_gone(places().proc, policy::owner_pid(owner),
                       comparable ? policy::owner_start(owner) : 0,
                       slot.image.load(memory_order_relaxed));
}

bool Slice::reclaim_dead() {
  const sys::ErrnoGuard keep_errno;
  bool just_died = false;
  const uint64_t now = sys::monotonic_ns();
  const uint32_t high = region_.map->header.high_water.load(memory_order_acquire);
  for (uint32_t i = 0; i < high && i < abi::kMaxSlots; i++) {
    abi::RegionSlot& slot = region_.map->slot[i];
    const abi::PackedOwner owner = slot.owner.load(memory_order_acquire);
    if (owner == 0 || owner == owner_) continue;
    // A pid means nothing in another pid namespace: those slots are the agent's to judge.
    if (policy::owner_namespace(slot, owner) != pid_namespace_) continue;
    if (is_alive(slot, owner)) continue;
    const uint64_t seen_dead = policy::note_death(slot, owner, now);
    if (now - seen_dead < kDeathGraceNs) {
      just_died = true;
      continue;
    }
    log(LogLevel::kDebug, "process %u is gone: its memory is given back", policy::owner_pid(owner));
    policy::reclaim_slot(*region_.map, i, owner);
  }
  return just_died;
}

void Slice::wait_for_dead() {
  if (!reclaim_dead()) return;
  sys::sleep_ns(kDeathGraceNs);
  reclaim_dead();
}

bool Slice::search_for_dead() {
  if (sys::monotonic_ns() < next_search_ns_.load(memory_order_relaxed)) return false;
  // By the processor's time: a search that was preempted would make a pause in which the next
  // process to die is not found.
  const uint64_t begin = sys::thread_cpu_ns();
  const bool just_died = reclaim_dead();
  const uint64_t took = sys::thread_cpu_ns() - begin;
  next_search_ns_.store(sys::monotonic_ns() + std::min(took, kLongestPauseNs),
                        memory_order_relaxed);
  if (just_died) {
    sys::sleep_ns(kDeathGraceNs);
    reclaim_dead();
  }
  return true;
}

bool Slice::is_member(uint32_t pid) {
  const uint32_t high = region_.map->header.high_water.load(memory_order_acquire);
  for (uint32_t i = 0; i < high && i < abi::kMaxSlots; i++) {
    const abi::RegionSlot& slot = region_.map->slot[i];
    if (policy::owner_pid(slot.owner.load(memory_order_relaxed)) == pid &&
        slot.pid_namespace.load(memory_order_relaxed) == pid_namespace_) {
      return true;
    }
  }
  return false;
}

int Slice::make_object(uint64_t key, int device, uint64_t bytes) {
  if (device == kUncounted || (slot_.load(memory_order_acquire) < 0 && !join())) return -1;
  Guard guard(devices_[device].lock);
  return policy::make_object(*region_.map, key, static_cast<uint32_t>(slot_.load()),
                             static_cast<uint32_t>(device), policy::units_for(bytes), owner_);
}

int Slice::hold_object(uint64_t key) {
  if (slot_.load(memory_order_acquire) < 0 && !join()) return -1;
  return policy::hold_object(*region_.map, key, owner_);
}

int Slice::hold_marked_object(uint32_t mark, uint32_t pid) {
  if (slot_.load(memory_order_acquire) < 0 && !join()) return -1;
  return policy::hold_marked_object(*region_.map, mark, pid, owner_);
}

uint64_t Slice::object_bytes(int object) {
  return policy::object_units(*region_.map, static_cast<uint32_t>(object)) * abi::kUnit;
}

void Slice::drop_object(int object) {
  policy::drop_object(*region_.map, static_cast<uint32_t>(object), owner_);
}

}  // namespace softmig::job
