#include "policy/turn.h"

#include <algorithm>

#include "policy/share.h"

namespace softmig::policy {
namespace {

using std::memory_order_relaxed;

// Work that ends this much after its turn is not worth a word: a launch takes as long.
constexpr uint64_t kUnsaidNs = 300'000;
// Kernels up to this long come one after another: the board is told of the next ones as well, so
// that it is not written for each.
constexpr uint64_t kAheadNs = 2'000'000;
uint64_t slot_begin(const ShareRule& rule, uint64_t slot) {
  const uint64_t count = rule.slot_count;
  return rule.frame_ns * (slot / count) + rule.frame_ns * (slot % count) / count;
}

// When a slot last began.
uint64_t last_begin(const ShareRule& rule, uint32_t slot, uint64_t now) {
  const uint64_t in_frame = slot_begin(rule, slot), phase = (now + kLeadNs) % rule.frame_ns;
  return now + kLeadNs - phase + in_frame - (in_frame > phase ? rule.frame_ns : 0);
}

// A turn of `length` begins, `passed` after the one before it. What that left is lost; what it took
// beyond its own is taken off.
void renew_spare(abi::RegionShare& share, const ShareRule& rule, uint64_t passed, uint64_t length) {
  const uint64_t turns =
      std::clamp<uint64_t>((passed + rule.frame_ns / 2) / rule.frame_ns, 1, 1000);
  const auto added = static_cast<int64_t>(turns * length), most = static_cast<int64_t>(length);
  const int64_t spare = share.turn_spare_ns.load(memory_order_relaxed);
  share.turn_spare_ns.store(std::min(std::min<int64_t>(spare, 0) + added, most),
                            memory_order_relaxed);
}

}  // namespace

SlotPlace slot_at(const ShareRule& rule, uint64_t now) {
  SlotPlace place;
  if (!rule.has_slots()) return place;
  const uint32_t count = rule.slot_count;
  const auto is_own = [&](uint32_t slot) { return (rule.slot_mask >> slot % count & 1) != 0; };
  const uint64_t phase = (now + kLeadNs) % rule.frame_ns;
  uint32_t slot = 0;
  while (slot_begin(rule, slot + 1) <= phase) slot++;
  place.own = is_own(slot);
  uint32_t next = slot + 1;
  while (is_own(next) == place.own) next++;
  if (!place.own) {
    place.left_ns = 0;
    place.until_ns = slot_begin(rule, next) - phase;
    return place;
  }
  // The lead was added to find the slot; its end is where the clock says.
  place.left_ns = slot_begin(rule, next) - phase + kLeadNs;
  uint32_t first = slot + count;
  while (is_own(first - 1)) first--;
  place.first_slot = first % count;
  place.since_ns = rule.frame_ns + phase - slot_begin(rule, first);
  return place;
}

uint64_t late_until(const ShareRule& rule, const TurnBoard& board, uint64_t turn_ns, uint64_t now) {
  uint64_t late = 0;
  for (uint32_t slot = 0; slot < std::min(rule.slot_count, uint32_t{32}); slot++) {
    if ((rule.slot_mask >> slot & 1) != 0) continue;
    const uint64_t until = board.until_ns[slot].load(memory_order_relaxed);
    if (until > std::max(late, now) && last_begin(rule, slot, now) < turn_ns) late = until;
  }
  return late;
}

bool asks_board(const abi::RegionShare& share, const ShareRule& rule, uint64_t now) {
  const uint64_t begin = share.turn_ns.load(memory_order_relaxed);
  if (now < share.turn_until_ns.load(memory_order_relaxed) &&
      (share.turn_open_ns.load(memory_order_relaxed) == begin ||
       now + kLeadNs < share.turn_from_ns.load(memory_order_relaxed))) {
    return false;
  }
  if (!rule.has_slots() || is_light(share, rule, now)) return false;
  return now < share.turn_until_ns.load(memory_order_relaxed) || slot_at(rule, now).own;
}

void follow_board(abi::RegionShare& share, const ShareRule& rule, const TurnBoard& board,
                  uint64_t now) {
  uint64_t begin = share.turn_ns.load(memory_order_relaxed);
  uint64_t from = share.turn_from_ns.load(memory_order_relaxed);
  uint64_t until = share.turn_until_ns.load(memory_order_relaxed);
  if (now >= until) {
    const SlotPlace place = slot_at(rule, now);
    if (!place.own) return;
    const uint64_t last = begin;
    begin = from = now + kLeadNs - place.since_ns;
    until = now + place.left_ns;
    renew_spare(share, rule, begin - std::min(begin, last), until - begin);
  }
  const uint64_t most = begin + rule.frame_ns / 4 * 3;
  const uint64_t late = std::min(late_until(rule, board, begin, now), most);
  const bool waits = late > std::max(now + kLeadNs, from);
  if (waits) {
    from = late;
    const int64_t spare = share.turn_spare_ns.load(memory_order_relaxed);
    until = std::max(until, from + static_cast<uint64_t>(std::max<int64_t>(spare, 0)));
  }
  // The beginning last: whoever dies before it leaves a turn that is begun again.
  share.turn_from_ns.store(from, memory_order_relaxed);
  share.turn_until_ns.store(until, memory_order_relaxed);
  share.turn_ns.store(begin, std::memory_order_release);
  if (!waits) share.turn_open_ns.store(begin, memory_order_relaxed);
}

Notice tell_board(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t end) {
  const uint64_t begin = share.turn_ns.load(memory_order_relaxed);
  const uint64_t until = share.turn_until_ns.load(memory_order_relaxed);
  const uint64_t late = share.turn_from_ns.load(memory_order_relaxed) - begin;
  if (end + late <= until + kUnsaidNs) return {};
  uint64_t told = share.turn_told_ns.load(memory_order_relaxed);
  if (end + (cost <= kAheadNs ? kAheadNs / 4 : 0) <= std::min(told, std::max(until, end)))
    return {};
  const uint64_t next = cost <= kAheadNs ? std::max(end, std::min(end + kAheadNs, until)) : end;
  if (next <= told || !share.turn_told_ns.compare_exchange_strong(told, next)) return {};
  return {slot_at(rule, begin).first_slot, next};
}

}  // namespace softmig::policy
