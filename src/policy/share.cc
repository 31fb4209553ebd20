#include "policy/share.h"

#include <algorithm>

namespace softmig::policy {
namespace {

using std::memory_order_relaxed;

// A launch takes this long to reach the GPU: it may be made before the slot begins.
constexpr uint64_t kLeadNs = 60'000;
// Work may end this much after the slot: the neighbour's first launches wait in its place anyway.
constexpr uint64_t kSlackNs = 200'000;
// In its slots a job is no further ahead of the GPU than this: if the GPU is late, since a
// neighbour's work came to its end late, so is the job, and it ends with its slot nevertheless.
constexpr uint64_t kHorizonNs = 2'000'000;
// Notes of a slot: more work than it had room for; no balance; strikes are counted above.
constexpr uint64_t kFull = 1, kBroke = 2, kStrike = 256;
constexpr uint64_t kStrikes = 16, kRoamFrames = 128;
// What the edges of a slot may cost before the neighbours are to blame.
constexpr uint64_t kEdgeNs = 1'500'000;
constexpr uint64_t kPortionNs = 1'000'000;
// A clock that falls by more than this is another one: the file has outlived a restart.
constexpr uint64_t kClockFallNs = 10'000'000'000;
constexpr uint64_t kShortestWaitNs = 10'000;
constexpr uint64_t kLongestWaitNs = 5'000'000;

uint64_t wait_of(uint64_t ns) { return std::clamp(ns, kShortestWaitNs, kLongestWaitNs); }

// Whatever lies in a future that no charge explains belongs to another clock.
void keep_clock(abi::RegionShare& share, uint64_t now) {
  const uint64_t last = share.clock_ns.load(memory_order_relaxed);
  if (last > now + kClockFallNs) {
    share.paid_until_ns.store(0, memory_order_relaxed);
    share.queued_until_ns.store(0, memory_order_relaxed);
  }
  // Written rarely: the word is shared by all processes of the job.
  if (last > now + kClockFallNs || now > last + kClockFallNs / 10) {
    share.clock_ns.store(now, memory_order_relaxed);
  }
}

uint64_t earliest(const ShareRule& rule, uint64_t now) {
  const uint64_t burst = rule.burst_ns();
  return now > burst ? now - burst : 0;
}

void queue(abi::RegionShare& share, uint64_t cost, uint64_t now) {
  uint64_t until = share.queued_until_ns.load(memory_order_relaxed);
  while (!share.queued_until_ns.compare_exchange_weak(until, std::max(until, now) + cost,
                                                      memory_order_relaxed)) {
  }
}

void take_off(std::atomic<uint64_t>& moment, uint64_t ns) {
  uint64_t old = moment.load(memory_order_relaxed);
  while (!moment.compare_exchange_weak(old, old > ns ? old - ns : 0, memory_order_relaxed)) {
  }
}

// Whether the job may use more than its own slots. One that fills them has no need to, and would
// only make the GPU change between jobs; one that cannot fill them (it waits for its kernels, or
// for the host) would not come to its share there.
bool may_leave_slots(abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  if (rule.mode == ShareMode::kPrefer) return true;
  if (rule.mode != ShareMode::kFill) return false;
  uint64_t full = share.full_ns.load(memory_order_relaxed);
  // At first every job is taken for one that fills them: several that start at once would else
  // begin with disturbing each other.
  if (full == 0) share.full_ns.store(full = now, memory_order_relaxed);
  return now > full + 2 * rule.frame_ns;
}

// Slots work while those who fill theirs get what is theirs. Who does not, since somebody who
// cannot fill his own runs in all of them, does without as well, until all try slots again at the
// same moment of the clock that they share.
bool roams(const abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  return rule.mode == ShareMode::kFill && now < share.roams_until_ns.load(memory_order_relaxed);
}

void judge_slot(abi::RegionShare& share, const ShareRule& rule, const SlotPlace& place,
                uint64_t last_end, uint64_t now) {
  const uint64_t used = share.slot_used_ns.exchange(0, memory_order_relaxed);
  const uint64_t notes = share.slot_notes.exchange(0, memory_order_relaxed);
  const bool is_next = now + place.left_ns - last_end < 2 * rule.frame_ns;
  const bool disturbed = is_next && (notes & kFull) != 0 && (notes & kBroke) == 0 &&
                         used + kEdgeNs + place.length_ns / 50 < place.length_ns;
  if (!disturbed) return;
  const uint64_t strikes = notes / kStrike + 1;
  if (strikes < kStrikes) {
    share.slot_notes.fetch_add(strikes * kStrike, memory_order_relaxed);
    return;
  }
  const uint64_t period = kRoamFrames * rule.frame_ns;
  share.roams_until_ns.store((now / period + 1) * period, memory_order_relaxed);
}

void enter_slot(abi::RegionShare& share, const ShareRule& rule, const SlotPlace& place,
                uint64_t now) {
  const uint64_t end = now + place.left_ns;
  uint64_t last = share.slot_end_ns.load(memory_order_relaxed);
  if (last == end || !share.slot_end_ns.compare_exchange_strong(last, end)) return;
  judge_slot(share, rule, place, last, now);
}

void note(abi::RegionShare& share, uint64_t what) {
  share.slot_notes.fetch_or(what, memory_order_relaxed);
}

// What slots have to say about a launch; 0: nothing against it.
uint64_t slot_wait(abi::RegionShare& share, const ShareRule& rule, uint64_t cost,
                   int64_t balance_ns, uint64_t now, uint64_t backlog) {
  if (roams(share, rule, now)) return 0;
  const SlotPlace place = slot_at(rule, now);
  // What does not fit a slot cannot be kept in one.
  if (cost > place.length_ns / 4) return 0;
  if (place.own) {
    enter_slot(share, rule, place, now);
    const uint64_t queued = share.queued_until_ns.load(memory_order_relaxed);
    const uint64_t start = std::max(queued, now + backlog);
    // Of a kernel half may lie outside: as many kernels then fit as on average should.
    const uint64_t room = place.left_ns + std::max(kSlackNs, cost / 2);
    const bool fits = start - now + cost <= room;
    if (start - now > kHorizonNs) {
      share.full_ns.store(now, memory_order_relaxed);
      note(share, kFull);
    }
    if (fits && start - now <= kHorizonNs) {
      share.slot_used_ns.fetch_add(cost, memory_order_relaxed);
      return 0;
    }
    // The queue may only look long: work that was given up never runs.
    if (backlog == 0 && start - now > rule.frame_ns) return 0;
    return fits ? wait_of(start - now - kHorizonNs) : wait_of(place.left_ns);
  }
  if (!may_leave_slots(share, rule, now)) return wait_of(place.until_ns);
  const uint64_t worth = rule.frame_ns * rule.percent / 100;
  if (balance_ns > static_cast<int64_t>(worth)) return 0;
  const uint64_t lacking = worth - static_cast<uint64_t>(std::max<int64_t>(balance_ns, 0));
  return wait_of(std::min(place.until_ns, rule.spread(lacking)));
}

// The account is empty although much of the slot is left: it says nothing about the neighbours.
void note_broke(abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  const SlotPlace place = slot_at(rule, now);
  if (place.own && place.left_ns > place.length_ns / 10) note(share, kBroke);
}

}  // namespace

bool ShareRule::has_slots() const {
  if (slot_count < 2 || mode == ShareMode::kBudget) return false;
  const uint32_t all = slot_count >= 32 ? UINT32_MAX : (uint32_t{1} << slot_count) - 1;
  return (slot_mask & all) != 0 && (slot_mask & all) != all;
}

uint64_t ShareRule::burst_ns() const {
  if (!has_slots()) return frame_ns;
  if (mode == ShareMode::kFill) return frame_ns * 2;
  return mode == ShareMode::kStrict ? frame_ns * 3 / 2 : frame_ns * 3;
}

uint64_t ShareRule::portion_ns() const {
  return has_slots() ? 0 : std::min(kPortionNs, frame_ns * percent / 400);
}

SlotPlace slot_at(const ShareRule& rule, uint64_t now) {
  SlotPlace place;
  if (!rule.has_slots()) return place;
  const uint32_t count = rule.slot_count;
  const auto is_own = [&](uint32_t slot) { return (rule.slot_mask >> slot % count & 1) != 0; };
  const auto begin_of = [&](uint32_t slot) {
    return rule.frame_ns * (slot / count) + rule.frame_ns * (slot % count) / count;
  };
  const uint64_t phase = (now + kLeadNs) % rule.frame_ns;
  uint32_t slot = 0;
  while (begin_of(slot + 1) <= phase) slot++;
  place.own = is_own(slot);
  uint32_t first = slot;
  if (place.own) {
    // The beginning of the run may lie in the frame before: counted from there.
    first += count;
    while (is_own(first - 1)) first--;
  } else {
    while (!is_own(first)) first++;
    place.until_ns = begin_of(first) - phase;
  }
  uint32_t last = first;
  while (is_own(last)) last++;
  place.length_ns = begin_of(last) - begin_of(first);
  if (place.own) {
    const uint64_t end = begin_of(last), here = phase + rule.frame_ns;
    // The lead was added to find the slot; its end is where the clock says.
    place.left_ns = end - here + kLeadNs;
  } else {
    place.left_ns = 0;
  }
  return place;
}

int64_t balance(const abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  const uint64_t paid =
      std::max(share.paid_until_ns.load(memory_order_relaxed), earliest(rule, now));
  const auto ahead = static_cast<int64_t>(now - paid);
  return ahead / 100 * static_cast<int64_t>(rule.percent) +
         ahead % 100 * static_cast<int64_t>(rule.percent) / 100;
}

bool is_at_ease(const abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  const uint64_t paid = share.paid_until_ns.load(memory_order_relaxed);
  return paid + rule.burst_ns() / 4 * 3 <= now;
}

Admission admit(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now,
                bool has_waited, uint64_t backlog) {
  keep_clock(share, now);
  uint64_t paid = share.paid_until_ns.load(memory_order_relaxed);
  const uint64_t portion = has_waited ? rule.spread(rule.portion_ns()) : 0;
  for (;;) {
    if (paid + portion >= now) {
      if (rule.has_slots()) note_broke(share, rule, now);
      return {false, wait_of(paid + portion - now)};
    }
    if (rule.has_slots()) {
      const uint64_t wait = slot_wait(share, rule, cost, balance(share, rule, now), now, backlog);
      if (wait != 0) return {false, wait};
    }
    const uint64_t next = std::max(paid, earliest(rule, now)) + rule.spread(cost);
    if (share.paid_until_ns.compare_exchange_weak(paid, next, memory_order_relaxed)) break;
  }
  queue(share, cost, now);
  return {true, 0};
}

void charge(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now) {
  uint64_t paid = share.paid_until_ns.load(memory_order_relaxed);
  while (!share.paid_until_ns.compare_exchange_weak(
      paid, std::max(paid, earliest(rule, now)) + rule.spread(cost), memory_order_relaxed)) {
  }
}

void refund(abi::RegionShare& share, const ShareRule& rule, uint64_t cost) {
  take_off(share.paid_until_ns, rule.spread(cost));
  take_off(share.queued_until_ns, cost);
}

}  // namespace softmig::policy
