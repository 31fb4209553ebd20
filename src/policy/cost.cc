#include "policy/cost.h"

#include <algorithm>
#include <string_view>

namespace softmig::policy {
namespace {

using std::memory_order_relaxed;

constexpr uint32_t kProbes = 16;
constexpr uint32_t kMemory = 32;       // samples that the mean remembers
constexpr uint32_t kFirstSamples = 4;  // taken at once
// A launch between two events is about this much dearer.
constexpr uint64_t kSampleNs = 3'000;
constexpr uint64_t kSamplePart = 333;
constexpr uint64_t kRarestSample = 512;
// What another context takes when it is switched to is never less.
constexpr uint64_t kTimesliceNs = 500'000;
// So many untrusted samples in a row that were not believed are. Kernels longer than a timeslice
// may be preempted every time, and streams that are busy slow each other down nearly every time.
constexpr uint32_t kPatience = 16, kLongPatience = 256;
// A context keeps the GPU for about this long while others want it, so of short kernels that follow
// each other this part of their length is cut.
constexpr uint64_t kTurnNs = 2'000'000;
// So many of a cost that varies in a row that are all cheap, or all dear: it is another kernel now.
constexpr int8_t kStreak = 100;
// How many samples are judged at once: so many if it is plain, so many if not.
constexpr uint8_t kPlainly = 32, kJudged = 128;

uint64_t place(uint64_t key, uint32_t probe) {
  return ((key >> 20 ^ key) + probe) & (CostTable::kRows - 1);
}

uint64_t believable(const Cost& cost, Company company) {
  const uint64_t mean = cost.mean_ns.load(memory_order_relaxed);
  // Streams slow each other down by any amount.
  if (company == Company::kStreams) return mean + mean / 16;
  return mean + std::max(mean / 8, std::min(kTimesliceNs, mean * 4));
}

void blend(Cost& cost, uint64_t sample) {
  const uint32_t samples = cost.samples.load(memory_order_relaxed);
  const uint64_t mean = cost.mean_ns.load(memory_order_relaxed);
  uint64_t next = sample;
  if (samples == 1) {
    // The first launch finds cold caches and clocks.
    next = std::min(sample, mean) == sample ? sample : (mean + sample) / 2;
  } else if (samples > 1) {
    const auto by = static_cast<int64_t>(std::min(samples + 1, kMemory));
    next = static_cast<uint64_t>(static_cast<int64_t>(mean) +
                                 (static_cast<int64_t>(sample) - static_cast<int64_t>(mean)) / by);
  }
  cost.mean_ns.store(std::max<uint64_t>(next, 1), memory_order_relaxed);
  cost.samples.store(std::min(samples + 1, kMemory), memory_order_relaxed);
}

void count_anew(Cost& cost) {
  cost.seen = 0;
  cost.dear.store(0, memory_order_relaxed);
}

// Whether more samples were dear than are cut, by one in `part`.
bool too_many_dear(const Cost& cost, uint64_t low_ns, uint32_t part) {
  const uint64_t cut = 3 * low_ns * cost.seen / kTurnNs;
  return cost.dear.load(memory_order_relaxed) > cost.seen / part + cut;
}

bool is_dear(uint64_t sample_ns, uint64_t low_ns) {
  return sample_ns > low_ns + std::min(kTimesliceNs, low_ns * 4);
}

// Whether a cost that varied seems to do so no more.
bool is_plain_again(Cost& cost, uint64_t sample_ns) {
  if (is_dear(sample_ns, cost.lowest_ns)) {
    cost.streak = static_cast<int8_t>(std::max<int8_t>(cost.streak, 0) + 1);
  } else {
    cost.streak = static_cast<int8_t>(std::min<int8_t>(cost.streak, 0) - 1);
  }
  return cost.streak == kStreak || cost.streak == -kStreak;
}

// Counts a sample as cheap or dear, and decides from many whether the cost varies.
void judge(Cost& cost, uint64_t sample_ns) {
  const uint64_t low = cost.varies ? cost.lowest_ns : cost.mean_ns.load(memory_order_relaxed);
  cost.seen++;
  if (is_dear(sample_ns, low)) {
    const auto us = static_cast<uint32_t>(std::min<uint64_t>(sample_ns / 1000, UINT32_MAX));
    cost.least_dear_us =
        cost.dear.fetch_add(1, memory_order_relaxed) == 0 ? us : std::min(cost.least_dear_us, us);
  } else if (cost.varies) {
    cost.lowest_ns = low - low / 16 + sample_ns / 16;
  }
  const bool plain = cost.seen == kPlainly && too_many_dear(cost, low, 4);
  if (!plain && cost.seen < kJudged) return;
  const bool did = cost.varies;
  if (!did) cost.streak = 0;
  cost.varies = plain || too_many_dear(cost, low, did ? 64 : 16);
  if (cost.varies) {
    const uint64_t beyond = uint64_t{cost.least_dear_us} * 1000 - low;
    cost.mean_ns.store(low + beyond * cost.dear.load(memory_order_relaxed) / cost.seen,
                       memory_order_relaxed);
    cost.lowest_ns = low;
  } else if (did) {
    cost.mean_ns.store(std::max<uint64_t>(low, 1), memory_order_relaxed);
    cost.doubted.store(0, memory_order_relaxed);
  }
  count_anew(cost);
}

}  // namespace

Nature nature_of(const char* kernel_name) {
  // ncclDevKernel_AllReduce_Sum_f16_RING_LL(...), of older versions ncclKernel_...
  return std::string_view(kernel_name).starts_with("nccl") ? Nature::kCollective
                                                           : Nature::kOrdinary;
}

Cost& CostTable::find(uint64_t key) {
  const uint32_t now = clock_.load(memory_order_relaxed);
  Cost* victim = nullptr;
  uint32_t oldest = 0;
  for (uint32_t i = 0; i < kProbes; i++) {
    Cost& row = this->row(place(key, i));
    uint64_t held = row.key.load(std::memory_order_acquire);
    if (held == 0 && row.key.compare_exchange_strong(held, key, std::memory_order_acq_rel)) {
      clock_.store(now + 1, memory_order_relaxed);
      held = key;
    }
    if (held == key) {
      if (row.used.load(memory_order_relaxed) != now) row.used.store(now, memory_order_relaxed);
      return row;
    }
    const uint32_t age = now - row.used.load(memory_order_relaxed);
    if (victim == nullptr || age > oldest) {
      victim = &row;
      oldest = age;
    }
  }
  // Two threads may do this at once: the loser's samples go to a row of another key for a moment.
  clock_.store(now + 1, memory_order_relaxed);
  victim->samples.store(0, memory_order_relaxed);
  victim->mean_ns.store(0, memory_order_relaxed);
  victim->countdown.store(0, memory_order_relaxed);
  victim->pending.store(0, memory_order_relaxed);
  victim->every.store(0, memory_order_relaxed);
  victim->nature.store(Nature::kNotKnown, memory_order_relaxed);
  victim->used.store(now, memory_order_relaxed);
  victim->doubted.store(0, memory_order_relaxed);
  count_anew(*victim);
  victim->varies = false;
  victim->key.store(key, std::memory_order_release);
  return *victim;
}

Cost* CostTable::look(uint64_t key) {
  for (uint32_t i = 0; i < kProbes; i++) {
    Cost& row = this->row(place(key, i));
    if (row.key.load(std::memory_order_acquire) == key) return &row;
  }
  return nullptr;
}

void CostTable::forget(uint64_t key) {
  Cost* row = look(key);
  if (row == nullptr) return;
  // The row stays, since later keys were placed behind it: it is as one that nobody has timed.
  row->samples.store(0, memory_order_relaxed);
  row->mean_ns.store(0, memory_order_relaxed);
  row->countdown.store(0, memory_order_relaxed);
  row->nature.store(Nature::kNotKnown, memory_order_relaxed);
  count_anew(*row);
  row->varies = false;
}

bool is_due(Cost& cost, uint64_t random) {
  const uint32_t samples = cost.samples.load(memory_order_relaxed);
  if (samples < kFirstSamples) {
    if (cost.pending.load(memory_order_relaxed) == 0) return true;
    // The one under way may wait for ever, for a value or for a thread: of a kernel that was seen
    // others are then taken at random.
    if (samples == 0) return false;
  }
  const uint32_t left = cost.countdown.load(memory_order_relaxed);
  if (left > 1) {
    cost.countdown.store(left - 1, memory_order_relaxed);
    return false;
  }
  // Dear ones were seen: more often until it is clear what they are.
  const bool in_doubt = cost.dear.load(memory_order_relaxed) > 1 ||
                        cost.doubted.load(memory_order_relaxed) >= kPatience;
  const uint64_t part = in_doubt ? kSamplePart / 8 : kSamplePart;
  const uint64_t wanted = std::clamp<uint64_t>(kSampleNs * part / estimate(cost), 1, kRarestSample);
  // Kept while it is about right: if a high estimate were looked at sooner than a low one, the low
  // ones would hold for longer, and the mean over launches be too low.
  uint64_t every = cost.every.load(memory_order_relaxed);
  if (every * 4 < wanted || every > wanted * 4) {
    every = wanted;
    cost.every.store(static_cast<uint32_t>(every), memory_order_relaxed);
  }
  // Anywhere from 1 to twice that, so that no rhythm of the program can hide from it.
  cost.countdown.store(static_cast<uint32_t>(1 + random % (2 * every)), memory_order_relaxed);
  return left == 1;
}

bool learn(Cost& cost, uint64_t sample_ns, Company company, bool follows) {
  const bool trusted = company == Company::kNobody;
  if (trusted) cost.varies = false;
  if (company == Company::kContexts && is_known(cost)) {
    if (cost.varies && is_plain_again(cost, sample_ns)) {
      cost.varies = false;
      cost.samples.store(0, memory_order_relaxed);
      count_anew(cost);
    } else if (follows) {
      judge(cost, sample_ns);
    }
    if (cost.varies) return follows;
  }
  if (trusted || !is_known(cost) || sample_ns <= believable(cost, company)) {
    const uint64_t mean = cost.mean_ns.load(memory_order_relaxed);
    // Where that is the difference of a preemption, the mean held one.
    if (!trusted && is_known(cost) && sample_ns + std::max(mean / 8, kTimesliceNs / 2) < mean) {
      cost.mean_ns.store(std::max<uint64_t>(sample_ns, 1), memory_order_relaxed);
      cost.samples.store(2, memory_order_relaxed);
    } else {
      blend(cost, sample_ns);
    }
    cost.doubted.store(0, memory_order_relaxed);
    return true;
  }
  const uint32_t doubted = cost.doubted.load(memory_order_relaxed) + 1;
  if (doubted == 1 || sample_ns < cost.lowest_ns) cost.lowest_ns = sample_ns;
  const bool for_long =
      company == Company::kStreams || cost.mean_ns.load(memory_order_relaxed) > kTimesliceNs;
  cost.doubted.store(doubted, memory_order_relaxed);
  if (doubted < (for_long ? kLongPatience : kPatience)) return false;
  cost.mean_ns.store(cost.lowest_ns, memory_order_relaxed);
  cost.samples.store(2, memory_order_relaxed);
  cost.doubted.store(0, memory_order_relaxed);
  return true;
}

}  // namespace softmig::policy
