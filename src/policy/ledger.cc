#include "policy/ledger.h"

namespace softmig::policy {
namespace {

using abi::PackedCharge;
using abi::PackedIntent;
using abi::PackedOwner;
using abi::PackedUse;
using abi::Region;
using abi::RegionAccount;
using std::memory_order_acq_rel;
using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

constexpr uint64_t kMaxUnits = 0xffffffff;
// An object's key: 0 is free; being made, with its maker, who may die over it; or its name:
// dying:1 | 0 | closing:1 | lap:8 | hash:53. Closing is looked at for holders, and may live on.
// Dying is for ever. The lap is another one in every closing: who found no holders in an earlier
// one must not decide in this one.
constexpr uint64_t kObjectFree = 0;
constexpr uint64_t kObjectDying = uint64_t{1} << 63, kObjectBeingMade = uint64_t{1} << 62;
constexpr uint64_t kObjectClosing = uint64_t{1} << 61;
constexpr uint64_t kLapOne = uint64_t{1} << 53, kLapMask = kLapOne * 0xff, kHashMask = kLapOne - 1;

constexpr uint64_t object_hash(uint64_t key) {
  key = (key ^ key >> 53) & kHashMask;
  return key != 0 ? key : 1;
}
constexpr uint64_t next_lap(uint64_t key) {
  return (key & ~kLapMask) | ((key + kLapOne) & kLapMask);
}
constexpr bool is_made(uint64_t key) { return key != kObjectFree && (key & kObjectBeingMade) == 0; }
// Somebody may join: the same name, whatever its lap.
constexpr bool is_open(uint64_t key, uint64_t hash) { return (key & ~kLapMask) == hash; }

constexpr PackedUse pack_use(uint64_t used, uint32_t writer, uint32_t sequence) {
  return used << 32 | uint64_t{writer & 0xffff} << 16 | (sequence & 0xffff);
}
constexpr uint32_t writer_of(PackedUse use) { return use >> 16 & 0xffff; }
constexpr uint32_t sequence_of(uint64_t word) { return static_cast<uint32_t>(word); }
// The total has room for half of a sequence number only.
constexpr bool is_tag_of(PackedUse use, uint32_t sequence) {
  return (use & 0xffff) == (sequence & 0xffff);
}

constexpr PackedCharge pack_charge(uint64_t units, uint32_t sequence) {
  return units << 32 | sequence;
}
constexpr PackedIntent pack_intent(int64_t delta, uint32_t sequence) {
  return uint64_t{static_cast<uint32_t>(delta)} << 32 | sequence;
}
constexpr int64_t delta_of(PackedIntent intent) { return static_cast<int32_t>(intent >> 32); }

// True if sequence a is not before b; the numbers wrap.
constexpr bool reached(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) >= 0; }

// Adds without leaving [0, kMaxUnits]: the words may have been forged.
constexpr uint64_t add_clamped(uint64_t units, int64_t delta) {
  if (delta < 0) return units > static_cast<uint64_t>(-delta) ? units + delta : 0;
  return units + delta < kMaxUnits ? units + delta : kMaxUnits;
}

RegionAccount* account_of(Region& region, uint32_t writer, uint32_t device) {
  if (writer < abi::kMaxSlots) return &region.slot[writer].device[device];
  const uint32_t object = writer - abi::kMaxSlots;
  return object < abi::kMaxObjects ? &region.object[object].account : nullptr;
}

void note_applied(RegionAccount& account, uint32_t sequence) {
  uint64_t seen = account.applied.load(memory_order_relaxed);
  while (!reached(sequence_of(seen), sequence) &&
         !account.applied.compare_exchange_weak(seen, sequence, memory_order_release,
                                                memory_order_relaxed)) {
  }
}

// Before a tag in `use` is overwritten, its writer must be able to learn that its change counted.
// As long as the tag stands, it is that of the writer's last completed change or of the one after:
// so the whole number is known, and a helper that was stopped for long writes what was true.
void keep_tag(Region& region, uint32_t device, PackedUse use) {
  RegionAccount* previous = account_of(region, writer_of(use), device);
  if (previous == nullptr) return;
  const uint32_t completed = sequence_of(previous->charge.load(memory_order_acquire));
  if (region.header.device[device].use.load(memory_order_acquire) != use) return;
  if (is_tag_of(use, completed)) note_applied(*previous, completed);
  if (is_tag_of(use, completed + 1)) note_applied(*previous, completed + 1);
}

bool was_applied(Region& region, const RegionAccount& account, uint32_t writer, uint32_t device,
                 uint32_t sequence) {
  const PackedUse use = region.header.device[device].use.load(memory_order_acquire);
  if (writer_of(use) == writer && is_tag_of(use, sequence)) return true;
  return reached(sequence_of(account.applied.load(memory_order_acquire)), sequence);
}

void note_peak(abi::RegionDevice& device, uint64_t used) {
  uint64_t peak = device.peak.load(memory_order_relaxed);
  while (used > peak && !device.peak.compare_exchange_weak(peak, used, memory_order_relaxed)) {
  }
}

// Gives back what a writer that will never write again holds of a device. `still_dead` is asked
// after every reading, so that words of a later owner of the same place are never touched.
template <typename StillDead>
void reclaim_account(Region& region, uint32_t writer, uint32_t device, StillDead still_dead) {
  RegionAccount& account = *account_of(region, writer, device);
  auto& shared = region.header.device[device].use;
  for (;;) {
    PackedCharge charge = account.charge.load(memory_order_acquire);
    PackedIntent intent = account.intent.load(memory_order_acquire);
    if (account.charge.load(memory_order_acquire) != charge) continue;
    if (!still_dead()) return;
    const uint64_t held = charged_units(charge);
    const uint32_t next = sequence_of(charge) + 1;
    if (sequence_of(intent) == next && was_applied(region, account, writer, device, next)) {
      // Another reclaimer may have put its own intent in this one's place before it was applied.
      if (account.intent.load(memory_order_acquire) != intent) continue;
      const PackedCharge completed = pack_charge(add_clamped(held, delta_of(intent)), next);
      account.charge.compare_exchange_strong(charge, completed, memory_order_acq_rel);
      continue;
    }
    if (held == 0) return;
    // An intent has room for half of what a charge may say: more than that goes in two rounds.
    const int64_t delta = -static_cast<int64_t>(held < INT32_MAX ? held : INT32_MAX);
    const PackedIntent take_back = pack_intent(delta, next);
    if (intent != take_back &&
        !account.intent.compare_exchange_strong(intent, take_back, memory_order_acq_rel)) {
      continue;
    }
    PackedUse use = shared.load(memory_order_acquire);
    do {
      if (writer_of(use) == writer && is_tag_of(use, next)) break;
      if (reached(sequence_of(account.applied.load(memory_order_acquire)), next)) break;
      keep_tag(region, device, use);
    } while (!shared.compare_exchange_weak(
        use, pack_use(add_clamped(used_units(use), delta), writer, next), memory_order_acq_rel,
        memory_order_acquire));
  }
}

bool has_holder(abi::RegionObject& object) {
  for (auto& holder : object.holder) {
    if (holder.load(memory_order_acquire) != 0) return true;
  }
  return false;
}

bool is_held_by(const abi::RegionObject& object, uint32_t pid) {
  for (const auto& holder : object.holder) {
    if (owner_pid(holder.load(memory_order_acquire)) == pid) return true;
  }
  return false;
}

// An object that nobody holds and nobody can join any more. Several may do this at once, and
// whoever comes by does it for one that died over it.
bool free_dying(Region& region, uint32_t index, uint64_t key) {
  abi::RegionObject& object = region.object[index];
  const uint32_t device = object.device.load(memory_order_relaxed);
  if (device < abi::kMaxDevices) {
    reclaim_account(region, abi::kMaxSlots + index, device,
                    [&] { return object.key.load(memory_order_acquire) == key; });
  }
  return object.key.compare_exchange_strong(key, kObjectFree, memory_order_acq_rel);
}

// Frees an object without holders. It is closed first, so that nobody joins any more, and then
// looked at for holders that came just before: for them it opens again. That is not the end of it:
// what was seen may have been somebody who came too late and has left again.
bool free_if_unheld(Region& region, uint32_t index) {
  abi::RegionObject& object = region.object[index];
  for (;;) {
    uint64_t key = object.key.load(memory_order_acquire);
    if (!is_made(key)) return false;
    if ((key & kObjectDying) != 0) return free_dying(region, index, key);
    const bool held = has_holder(object);
    if ((key & kObjectClosing) == 0) {
      if (held) return false;
      object.key.compare_exchange_strong(key, next_lap(key) | kObjectClosing, memory_order_acq_rel);
    } else if (held) {
      object.key.compare_exchange_strong(key, key & ~kObjectClosing, memory_order_acq_rel);
    } else {
      const uint64_t dying = (key & ~kObjectClosing) | kObjectDying;
      object.key.compare_exchange_strong(key, dying, memory_order_acq_rel);
    }
  }
}

// The key is looked at again after joining: the object may be closing. Then the place: the object
// may have been freed and made anew under the same name, and its maker begins with empty places.
// For the same reason only what was put there is taken away.
bool join_object(Region& region, uint32_t index, uint64_t hash, PackedOwner owner) {
  abi::RegionObject& object = region.object[index];
  for (auto& holder : object.holder) {
    PackedOwner mine = 0;
    if (!holder.compare_exchange_strong(mine, owner, memory_order_acq_rel)) continue;
    if (is_open(object.key.load(memory_order_acquire), hash) &&
        holder.load(memory_order_acquire) == owner) {
      return true;
    }
    mine = owner;
    holder.compare_exchange_strong(mine, 0, memory_order_acq_rel);
    free_if_unheld(region, index);
    return false;
  }
  return false;
}

}  // namespace

Change change_use(Region& region, uint32_t writer, uint32_t device, int64_t delta, uint64_t limit) {
  RegionAccount& account = *account_of(region, writer, device);
  abi::RegionDevice& shared = region.header.device[device];
  const PackedCharge charge = account.charge.load(memory_order_relaxed);
  const uint32_t next = sequence_of(charge) + 1;
  note_applied(account, sequence_of(charge));
  account.intent.store(pack_intent(delta, next), memory_order_release);
  PackedUse use = shared.use.load(memory_order_acquire);
  uint64_t total;
  do {
    total = add_clamped(used_units(use), delta);
    if (delta > 0 && (total > limit || total >= kMaxUnits)) return Change::kRefused;
    if (writer_of(use) != writer) keep_tag(region, device, use);
  } while (!shared.use.compare_exchange_weak(use, pack_use(total, writer, next),
                                             memory_order_acq_rel, memory_order_acquire));
  account.charge.store(pack_charge(add_clamped(charged_units(charge), delta), next),
                       memory_order_release);
  note_peak(shared, total);
  return Change::kDone;
}

int claim_slot(Region& region, const Claimant& claimant, IsBacked is_backed) {
  // Until the facts of the last owner are replaced, the claim says all that others need to judge
  // it: those facts must not be compared with the new owner's, who would look dead.
  const PackedOwner claim = pack_claim(owner_pid(claimant.owner), claimant.pid_namespace);
  for (uint32_t i = 0; i < abi::kMaxSlots; i++) {
    abi::RegionSlot& slot = region.slot[i];
    uint32_t high = region.header.high_water.load(memory_order_relaxed);
    const bool was_touched = i < abi::kReservedSlots || i < high;
    if (!was_touched && is_backed != nullptr && !is_backed(slot)) return -1;
    PackedOwner expected = 0;
    if (slot.owner.load(memory_order_relaxed) != 0) continue;
    // Before the claim: who dies over it must be found.
    while (high < i + 1 && !region.header.high_water.compare_exchange_weak(high, i + 1)) {
    }
    if (!slot.owner.compare_exchange_strong(expected, claim, memory_order_acq_rel)) continue;
    for (auto& account : slot.device) account.parts.store(0, memory_order_relaxed);
    slot.uid.store(claimant.uid, memory_order_relaxed);
    slot.image.store(claimant.image, memory_order_relaxed);
    slot.time_namespace.store(claimant.time_namespace, memory_order_relaxed);
    slot.pid_namespace.store(claimant.pid_namespace, memory_order_relaxed);
    expected = claim;
    if (slot.owner.compare_exchange_strong(expected, claimant.owner, memory_order_acq_rel)) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

void keep_counters_of_the_dead(Region& region, uint32_t slot) {
  for (uint32_t device = 0; device < abi::kMaxDevices; device++) {
    abi::RegionAccount& from = region.slot[slot].device[device];
    abi::RegionShare& to = region.share[device];
    to.gpu_ns.fetch_add(from.gpu_ns.exchange(0), memory_order_relaxed);
    to.waited_ns.fetch_add(from.waited_ns.exchange(0), memory_order_relaxed);
    to.launches.fetch_add(from.launches.exchange(0), memory_order_relaxed);
    to.graph_launches.fetch_add(from.graph_launches.exchange(0), memory_order_relaxed);
  }
}

uint64_t note_death(abi::RegionSlot& slot, PackedOwner owner, uint64_t now_ns) {
  if (slot.dead_owner.load(memory_order_acquire) == owner) {
    const uint64_t since = slot.dead_since_ns.load(memory_order_relaxed);
    if (since <= now_ns) return since;
    // By somebody in another time namespace, whose clock is ahead of ours.
  }
  slot.dead_since_ns.store(now_ns, memory_order_relaxed);
  slot.dead_owner.store(owner, memory_order_release);
  return now_ns;
}

void reclaim_slot(Region& region, uint32_t index, PackedOwner owner) {
  abi::RegionSlot& slot = region.slot[index];
  auto still_dead = [&] { return slot.owner.load(memory_order_acquire) == owner; };
  for (uint32_t device = 0; device < abi::kMaxDevices; device++) {
    if (!still_dead()) return;
    reclaim_account(region, index, device, still_dead);
  }
  drop_dead_holder(region, owner);
  slot.owner.compare_exchange_strong(owner, 0, memory_order_acq_rel);
}

int make_object(Region& region, uint64_t key, uint32_t writer, uint32_t device, uint64_t units,
                PackedOwner owner) {
  for (uint32_t i = 0; i < abi::kMaxObjects; i++) {
    abi::RegionObject& object = region.object[i];
    uint64_t free = kObjectFree;
    if (object.key.load(memory_order_relaxed) != kObjectFree ||
        !object.key.compare_exchange_strong(free, kObjectBeingMade | owner, memory_order_acq_rel)) {
      continue;
    }
    // Every life of a place begins with another lap.
    const uint64_t lap = object.account.charge.load(memory_order_acquire) * kLapOne & kLapMask;
    object.device.store(device, memory_order_relaxed);
    for (auto& holder : object.holder) holder.store(0, memory_order_relaxed);
    object.holder[0].store(owner, memory_order_release);
    object.key.store(object_hash(key) | lap, memory_order_release);
    // Charged twice for an instant rather than not at all.
    change_use(region, abi::kMaxSlots + i, device, static_cast<int64_t>(units), kNoLimit);
    change_use(region, writer, device, -static_cast<int64_t>(units), kNoLimit);
    return static_cast<int>(i);
  }
  return -1;
}

int hold_object(Region& region, uint64_t key, PackedOwner owner) {
  const uint64_t hash = object_hash(key);
  for (uint32_t i = 0; i < abi::kMaxObjects; i++) {
    auto& place = region.object[i].key;
    while (is_open(place.load(memory_order_acquire) & ~kObjectClosing, hash)) {
      if (join_object(region, i, hash, owner)) return static_cast<int>(i);
      // It was closing, or is full.
      if (is_open(place.load(memory_order_acquire), hash)) break;
    }
  }
  return -1;
}

int hold_marked_object(Region& region, uint32_t mark, uint32_t pid, PackedOwner owner) {
  for (uint32_t i = mark; i < abi::kMaxObjects; i += kObjectMarks) {
    const uint64_t key = region.object[i].key.load(memory_order_acquire);
    if (!is_made(key) || (key & kObjectDying) != 0 ||
        (pid != 0 && !is_held_by(region.object[i], pid)))
      continue;
    if (join_object(region, i, key & kHashMask, owner)) return static_cast<int>(i);
  }
  return -1;
}

uint64_t object_units(const Region& region, uint32_t object) {
  return charged_units(region.object[object].account.charge.load(memory_order_acquire));
}

uint32_t object_device(const Region& region, uint32_t object) {
  return region.object[object].device.load(memory_order_acquire);
}

bool drop_object(Region& region, uint32_t index, PackedOwner owner) {
  for (auto& holder : region.object[index].holder) {
    PackedOwner expected = owner;
    if (holder.compare_exchange_strong(expected, 0, memory_order_acq_rel)) break;
  }
  return free_if_unheld(region, index);
}

void drop_dead_holder(Region& region, PackedOwner owner) {
  for (uint32_t i = 0; i < abi::kMaxObjects; i++) {
    abi::RegionObject& object = region.object[i];
    if (object.key.load(memory_order_acquire) == kObjectFree) continue;
    for (auto& holder : object.holder) {
      PackedOwner expected = owner;
      holder.compare_exchange_strong(expected, 0, memory_order_acq_rel);
    }
    // Half made, nothing was charged to it yet.
    uint64_t half_made = kObjectBeingMade | owner;
    object.key.compare_exchange_strong(half_made, kObjectFree, memory_order_acq_rel);
    free_if_unheld(region, i);
  }
}

int region_device(Region& region, uint64_t key) {
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    uint64_t found = region.header.device[i].key.load(memory_order_acquire);
    if (found == 0 && region.header.device[i].key.compare_exchange_strong(found, key)) found = key;
    if (found == key) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace softmig::policy
