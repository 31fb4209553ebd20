#include "policy/share.h"

#include <algorithm>

namespace softmig::policy {
namespace {

using std::memory_order_relaxed;

// Work may end this much after the slot: the neighbour's first launches wait in its place anyway.
constexpr uint64_t kSlackNs = 100'000;
// In its slots a job is no further ahead of the GPU than this: if the GPU is late, since a
// neighbour's work came to its end late, so is the job, and it ends with its slot nevertheless.
constexpr uint64_t kHorizonNs = 2'000'000;
// A job is light below this much work per time of its own, and hungry above that.
constexpr uint64_t kLightPercent = 65, kHungryPercent = 80;
// How long a light job is not asked again, in frames.
constexpr uint64_t kLightFrames = 64;
// Devices are coupled for so long after a kernel that made them so.
constexpr uint64_t kCoupledNs = 5'000'000'000;
// What they may be behind by: more than what lies between two collectives, ...
constexpr uint64_t kCreditFrames = 10;
// ... and who is waited for is held only if there is no end to it: a kernel's name is its own word.
constexpr uint64_t kMostBehindFrames = 50;
constexpr uint64_t kMostSpinFrames = 20;
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
    share.turn_until_ns.store(0, memory_order_relaxed);
    share.turn_told_ns.store(0, memory_order_relaxed);
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

// Charges no further than to `most`.
void charge_up_to(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now,
                  uint64_t most) {
  uint64_t paid = share.paid_until_ns.load(memory_order_relaxed), next = 0;
  do {
    next = std::max(paid, earliest(rule, now)) + rule.spread(cost);
    next = std::max(paid, std::min(next, most));
  } while (!share.paid_until_ns.compare_exchange_weak(paid, next, memory_order_relaxed));
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

// Whether work that starts then may start in a turn that lasts for `left` more ns.
bool fits_turn(const abi::RegionShare& share, uint64_t start_in, uint64_t cost, uint64_t left) {
  if (start_in + cost <= left + kSlackNs) return true;
  // A kernel cannot be cut: it goes on beyond the turn, and the next turns are that much shorter.
  return start_in < left && share.turn_spare_ns.load(memory_order_relaxed) > 0;
}

// When the job's work on the GPU should be done.
uint64_t queue_end(const abi::RegionShare& share, uint64_t busy_until, uint64_t now) {
  return std::max({share.queued_until_ns.load(memory_order_relaxed), busy_until, now});
}

// What a turn that lasts for `left` more ns has to say about a launch; 0: nothing against it.
uint64_t turn_wait(const abi::RegionShare& share, const ShareRule& rule, uint64_t cost,
                   uint64_t left, uint64_t now, bool has_waited, uint64_t busy_until) {
  const uint64_t start_in = queue_end(share, busy_until, now) - now;
  // Who had to wait for the GPU lets it come half as near before it goes on, so that it launches
  // many at a time.
  const uint64_t horizon = has_waited ? kHorizonNs / 2 : kHorizonNs;
  if (fits_turn(share, start_in, cost, left)) {
    return start_in <= horizon ? 0 : wait_of(start_in - horizon);
  }
  // The queue may only look long: work that was given up never runs.
  if (busy_until == 0 && start_in > rule.frame_ns) return 0;
  return wait_of(left);
}

// A job that leaves slots to others, and uses what they leave, goes by the clock alone.
Admission ask_slots(const abi::RegionShare& share, const ShareRule& rule, uint64_t cost,
                    uint64_t now, bool has_waited, uint64_t busy_until) {
  const SlotPlace place = slot_at(rule, now);
  const uint64_t wait =
      place.own ? turn_wait(share, rule, cost, place.left_ns, now, has_waited, busy_until)
                : wait_of(place.until_ns);
  return {wait == 0, wait};
}

Admission ask_turn(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now,
                   bool has_waited, uint64_t busy_until, const TurnBoard& board) {
  if (asks_board(share, rule, now)) follow_board(share, rule, board, now);
  const uint64_t until = share.turn_until_ns.load(memory_order_relaxed);
  if (now >= until) {
    const SlotPlace place = slot_at(rule, now);
    return {false, wait_of(place.own ? 0 : place.until_ns)};
  }
  const uint64_t from = share.turn_from_ns.load(memory_order_relaxed);
  if (share.turn_open_ns.load(memory_order_relaxed) != share.turn_ns.load(memory_order_relaxed)) {
    const uint64_t wait = wait_of(from > now + kLeadNs ? from - now - kLeadNs : 0);
    // Who comes after this one must know that there will be work in this turn.
    if (!fits_turn(share, 0, cost, until - std::min(from, until))) return {false, wait};
    return {false, wait, tell_board(share, rule, cost, from + cost)};
  }
  const uint64_t wait = turn_wait(share, rule, cost, until - now, now, has_waited, busy_until);
  return {wait == 0, wait};
}

}  // namespace

bool ShareRule::has_slots() const {
  if (slot_count < 2 || mode == ShareMode::kBudget) return false;
  const uint32_t all = slot_count >= 32 ? UINT32_MAX : (uint32_t{1} << slot_count) - 1;
  return (slot_mask & all) != 0 && (slot_mask & all) != all;
}

ShareRule ShareRule::with_open_slots() const {
  ShareRule rule = *this;
  rule.slot_mask |= open_mask;
  return rule;
}

ShareRule ShareRule::with_credit(bool is_awaited) const {
  ShareRule rule = *this;
  rule.credit_ns = (is_awaited ? kMostBehindFrames : kCreditFrames) * frame_ns;
  rule.mode = ShareMode::kBudget;  // slots of two devices need not lie at the same time
  return rule;
}

uint64_t ShareRule::burst_ns() const { return has_slots() ? frame_ns * 2 : frame_ns; }

uint64_t ShareRule::portion_ns() const {
  return has_slots() ? 0 : std::min(kPortionNs, frame_ns * percent / 400);
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
                bool has_waited, uint64_t busy_until, const TurnBoard& board) {
  keep_clock(share, now);
  const bool light = is_light(share, rule, now);
  const ShareRule at = light ? rule.with_open_slots() : rule;
  uint64_t paid = share.paid_until_ns.load(memory_order_relaxed);
  const uint64_t portion = has_waited ? rule.spread(at.portion_ns()) : 0;
  for (;;) {
    const uint64_t due = paid + portion;
    if (due >= now + rule.credit_ns) return {false, wait_of(due - now - rule.credit_ns)};
    if (at.has_slots()) {
      const Admission answer = light
                                   ? ask_slots(share, at, cost, now, has_waited, busy_until)
                                   : ask_turn(share, at, cost, now, has_waited, busy_until, board);
      if (!answer.granted) return answer;
    }
    const uint64_t next = std::max(paid, earliest(rule, now)) + rule.spread(cost);
    if (share.paid_until_ns.compare_exchange_weak(paid, next, memory_order_relaxed)) break;
  }
  Admission granted = {true, 0};
  // Nobody asks for the queue where there are no slots.
  if (!rule.has_slots()) return granted;
  if (!light) {
    share.turn_spare_ns.fetch_add(-static_cast<int64_t>(cost), memory_order_relaxed);
    granted.notice = tell_board(share, rule, cost, queue_end(share, busy_until, now) + cost);
  }
  queue(share, cost, now);
  return granted;
}

bool is_coupled(const abi::RegionShare& share, uint64_t now) {
  const uint64_t last = share.coupled_ns.load(memory_order_relaxed);
  return last != 0 && now < last + kCoupledNs;
}

bool is_awaited(std::span<const abi::RegionShare> shares, int device, uint64_t now) {
  const uint64_t own = shares[static_cast<size_t>(device)].collectives.load(memory_order_relaxed);
  return std::any_of(shares.begin(), shares.end(), [&](const abi::RegionShare& other) {
    return is_coupled(other, now) && other.collectives.load(memory_order_relaxed) > own;
  });
}

Admission admit_collective(std::span<abi::RegionShare> shares, int device, const ShareRule& rule,
                           uint64_t cost, uint64_t now) {
  abi::RegionShare& share = shares[static_cast<size_t>(device)];
  keep_clock(share, now);
  share.coupled_ns.store(now, memory_order_relaxed);
  uint64_t latest = 0;
  for (const abi::RegionShare& other : shares) {
    if (is_coupled(other, now))
      latest = std::max(latest, other.paid_until_ns.load(memory_order_relaxed));
  }
  const uint64_t credit = is_awaited(shares, device, now) ? kMostBehindFrames * rule.frame_ns : 0;
  if (latest >= now + credit) return {false, wait_of(latest - now - credit)};
  charge(share, rule, cost, now);
  queue(share, cost, now);
  return {true, 0};
}

void count_collective(abi::RegionShare& share, uint64_t now) {
  share.coupled_ns.store(now, memory_order_relaxed);
  share.collectives.fetch_add(1, memory_order_relaxed);
}

void charge(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now) {
  charge_up_to(share, rule, cost, now, UINT64_MAX);
}

void charge_spin(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now) {
  charge_up_to(share, rule, cost, now, now + kMostSpinFrames * rule.frame_ns);
}

void refund(abi::RegionShare& share, const ShareRule& rule, uint64_t cost) {
  take_off(share.paid_until_ns, rule.spread(cost));
  take_off(share.queued_until_ns, cost);
}

uint64_t demand_window_ns(const ShareRule& rule) { return 2 * rule.frame_ns; }

void note_demand(abi::RegionShare& share, const ShareRule& rule, const Demand& demand,
                 uint64_t now) {
  if (demand.gpu_ns * 100 >= demand.free_ns * kHungryPercent) {
    share.hungry_ns.store(now, memory_order_relaxed);
  } else if (demand.gpu_ns * 100 < demand.free_ns * kLightPercent &&
             (demand.confined || is_at_ease(share, rule, now))) {
    share.light_until_ns.store(now + kLightFrames * rule.frame_ns, memory_order_relaxed);
  }
}

bool is_light(const abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  if (rule.mode != ShareMode::kFill) return false;
  const uint64_t hungry = share.hungry_ns.load(memory_order_relaxed);
  return now < share.light_until_ns.load(memory_order_relaxed) &&
         (hungry == 0 || now > hungry + 2 * demand_window_ns(rule));
}

}  // namespace softmig::policy
