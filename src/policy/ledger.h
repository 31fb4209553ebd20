// The ledger: who holds how much of which device, kept in shared memory (abi/region.h) by processes
// that may be killed between any two instructions.
//
// A change touches two words, the device's total and the writer's own charge. It is made in three
// steps, each one store or compare-and-swap, so that whoever finds a dead writer knows how far it
// came:
//   1. intent  = (delta, s)          s: the writer's next sequence number
//   2. use     = (used + delta, writer, s)        refused here if it would pass the limit
//   3. charge  = (charge + delta, s)
// Between 2 and 3 the total's tag says that s was applied. Before the next writer overwrites that
// tag it notes s in the previous writer's `applied` word. A dead writer is taken back by making one
// more change in its name; any number of processes may do that at once, and each may die doing it.
//
// Pure: no clock, no OS. All amounts are units of abi::kUnit bytes.
#pragma once

#include <cstdint>

#include "abi/region.h"

namespace softmig::policy {

inline constexpr uint64_t kNoLimit = UINT64_MAX;

constexpr uint64_t units_for(uint64_t bytes) {
  return bytes / abi::kUnit + (bytes % abi::kUnit != 0);
}
constexpr uint64_t used_units(abi::PackedUse use) { return use >> 32; }
constexpr uint64_t charged_units(abi::PackedCharge charge) { return charge >> 32; }

enum class Change { kDone, kRefused };

// Adds `delta` units to `device` in the name of `writer`; refused if the total would pass `limit`
// (never refused when delta <= 0). The caller sees to it that a writer changes a device from one
// thread at a time.
Change change_use(abi::Region& region, uint32_t writer, uint32_t device, int64_t delta,
                  uint64_t limit);

// A process as others will find it: namespaces are inodes of /proc/self/ns, 0 if not known; the
// image is where the program's code lies, 0 if not known.
struct Claimant {
  abi::PackedOwner owner = 0;
  uint64_t pid_namespace = 0;
  uint64_t time_namespace = 0;
  uint32_t uid = 0;
  uint64_t image = 0;
};

// Takes a free slot. Returns its number, or -1 if all are taken. `is_backed` is asked before a slot
// is touched that may have no memory behind it; the first one without any is the end.
using IsBacked = bool (*)(const abi::RegionSlot&);
int claim_slot(abi::Region& region, const Claimant& claimant, IsBacked is_backed = nullptr);

// Adds what the last owner of a slot used of GPU time to what all the dead did. Called by the new
// owner.
void keep_counters_of_the_dead(abi::Region& region, uint32_t slot);

// Notes that `owner` was seen dead at `now_ns`; returns when that was first noted.
uint64_t note_death(abi::RegionSlot& slot, abi::PackedOwner owner, uint64_t now_ns);

// Gives back all that the dead process `owner` holds in `slot` and frees the slot. Does nothing if
// the slot belongs to somebody else by now.
void reclaim_slot(abi::Region& region, uint32_t slot, abi::PackedOwner owner);

// Exported memory. make_object moves `units` of the writer's charge to a new object held by
// `owner`; returns its number or -1 if there is no room (then nothing has changed).
int make_object(abi::Region& region, uint64_t key, uint32_t writer, uint32_t device, uint64_t units,
                abi::PackedOwner owner);
// Joins the object with this key; -1 if there is none, or it has no room for another holder.
int hold_object(abi::Region& region, uint64_t key, abi::PackedOwner owner);
// Joins the first object of these (index modulo kObjectMarks is `mark`) that a process with this
// pid holds; pid 0: any process. A file descriptor has room for a mark and a pid, not for a key.
inline constexpr uint32_t kObjectMarks = 62;
int hold_marked_object(abi::Region& region, uint32_t mark, uint32_t pid, abi::PackedOwner owner);
// What an object is charged, in units, and the device it lies on.
uint64_t object_units(const abi::Region& region, uint32_t object);
uint32_t object_device(const abi::Region& region, uint32_t object);
// Lets go; the last one out gives the memory back. True if it was given back.
bool drop_object(abi::Region& region, uint32_t object, abi::PackedOwner owner);
// Drops a dead holder from every object.
void drop_dead_holder(abi::Region& region, abi::PackedOwner owner);

// Identity of a process: unique on this machine between two boots. Each program that it executes is
// another life, with another number from 0 to 63 than the one before.
inline constexpr uint32_t kLives = 64;
constexpr abi::PackedOwner pack_owner(uint32_t pid, uint64_t start_ticks, uint32_t life = 0) {
  return uint64_t{pid & abi::kPidMask} << 40 | uint64_t{life % kLives} << 34 |
         (start_ticks & abi::kStartMask);
}
constexpr uint32_t owner_pid(abi::PackedOwner owner) { return owner >> 40 & abi::kPidMask; }
// Somebody who is about to own a slot, by pid and pid namespace: he may die before he does.
inline constexpr abi::PackedOwner kOwnerClaim = uint64_t{1} << 62;
constexpr abi::PackedOwner pack_claim(uint32_t pid, uint64_t pid_namespace) {
  return kOwnerClaim | uint64_t{pid & abi::kPidMask} << 40 | (pid_namespace & 0xffffffffff);
}
constexpr bool is_claim(abi::PackedOwner owner) { return (owner & kOwnerClaim) != 0; }
// 0: not known, the owner is a claim.
constexpr uint64_t owner_start(abi::PackedOwner owner) {
  return is_claim(owner) ? 0 : owner & abi::kStartMask;
}
constexpr uint32_t owner_life(abi::PackedOwner owner) { return owner >> 34 & (kLives - 1); }
// The pid namespace that an owner's pid belongs to.
inline uint64_t owner_namespace(const abi::RegionSlot& slot, abi::PackedOwner owner) {
  return is_claim(owner) ? owner & 0xffffffffff
                         : slot.pid_namespace.load(std::memory_order_acquire);
}

// Index of the device with this key in the region, entering it if it is new; -1 if there is no
// room.
int region_device(abi::Region& region, uint64_t key);

}  // namespace softmig::policy
