#include "state/activity.h"

#include <algorithm>
#include <ctime>

namespace softmig::sim {
namespace {

uint64_t overlap(uint64_t a_begin, uint64_t a_end, uint64_t b_begin, uint64_t b_end) {
  const uint64_t begin = std::max(a_begin, b_begin), end = std::min(a_end, b_end);
  return end > begin ? end - begin : 0;
}

// Books a finished stretch; only the last slots of it are of interest.
void book(Activity* activity, uint64_t begin, uint64_t end) {
  constexpr uint64_t kSpan = kActivitySlotNs * kActivitySlots;
  if (end > kSpan) begin = std::max(begin, end - kSpan);
  for (uint64_t number = begin / kActivitySlotNs; begin < end; ++number) {
    const uint64_t stop = std::min(end, (number + 1) * kActivitySlotNs);
    Activity::Slot& slot = activity->slots[number % kActivitySlots];
    if (slot.number != number) slot = {number, 0};
    slot.busy_ns += stop - begin;
    begin = stop;
  }
}

}  // namespace

uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void add_activity(Activity* activity, uint64_t begin_ns, uint64_t end_ns) {
  if (begin_ns <= activity->stretch_end && activity->stretch_end != 0) {
    activity->stretch_end = std::max(activity->stretch_end, end_ns);
    return;
  }
  book(activity, activity->stretch_begin, activity->stretch_end);
  activity->stretch_begin = begin_ns;
  activity->stretch_end = end_ns;
}

uint64_t busy_within(const Activity& activity, uint64_t begin_ns, uint64_t end_ns) {
  uint64_t busy = overlap(begin_ns, end_ns, activity.stretch_begin, activity.stretch_end);
  for (const Activity::Slot& slot : activity.slots) {
    const uint64_t from = slot.number * kActivitySlotNs;
    const uint64_t part = overlap(begin_ns, end_ns, from, from + kActivitySlotNs);
    busy += slot.busy_ns * part / kActivitySlotNs;
  }
  return std::min(busy, end_ns - begin_ns);
}

}  // namespace softmig::sim
