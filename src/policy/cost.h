// What a kernel of one shape, or a graph, costs: uncontended GPU time, learnt from samples.
//
// A sample is one launch between two events. The mean is learnt, not the least: what a kernel does
// may depend on its arguments, and launches are sampled at random, so the mean is what n launches
// cost on average. Where another context may have taken the GPU in between (untrusted samples),
// only the lower envelope counts: a sample far above what is known was a preemption, unless all of
// many are, or more than preemptions explain. A kernel that is short against a timeslice is seldom
// cut while its stream has work before it; if many of its samples are dear, it is now cheap and now
// dear (`varies`), and costs the mean of the two, each by its own lower envelope.
//
// A table of one process: fixed size, found without a lock, learnt under a lock of the caller's.
// Pure: no clock; memory and random bits come from the caller.
#pragma once

#include <atomic>
#include <cstdint>

namespace softmig::policy {

// Whether a kernel waits, on the GPU, for kernels on other GPUs.
enum class Nature : uint8_t { kNotKnown, kOrdinary, kCollective };
// By its name, as NCCL and RCCL call theirs.
Nature nature_of(const char* kernel_name);

struct alignas(64) Cost {
  std::atomic<uint64_t> key;        // 0: free
  std::atomic<uint64_t> mean_ns;    // 0: not known
  std::atomic<uint32_t> samples;    // that went into the mean, at most kMemory
  std::atomic<uint32_t> countdown;  // launches until the next sample
  std::atomic<uint32_t> pending;    // samples under way
  std::atomic<uint32_t> used;       // when it was looked up last, for the choice of a victim
  // Untrusted samples since the last that was believed. Of a cost that varies: its cheap kind.
  uint64_t lowest_ns;
  std::atomic<uint32_t> doubted;
  std::atomic<uint32_t> every;  // launches per sample
  std::atomic<Nature> nature;
  // Samples of a busy stream beside other contexts, since they were last judged.
  uint8_t seen;
  std::atomic<uint8_t> dear;
  bool varies;
  int8_t streak;           // of a cost that varies: dear samples in a row, or less cheap ones
  uint32_t least_dear_us;  // the least of the dear ones
};
static_assert(sizeof(Cost) == 64);

// What is assumed of a kernel that nobody has seen.
inline constexpr uint64_t kUnknownCostNs = 20'000;

class CostTable {
 public:
  static constexpr uint32_t kRows = 1 << 14;
  static constexpr size_t kBytes = kRows * sizeof(Cost);

  // `rows`: kRows zeroed rows.
  explicit constexpr CostTable(Cost* rows = nullptr) : rows_(rows) {}
  bool empty() const { return rows_.load(std::memory_order_acquire) == nullptr; }
  // Gives an empty table its rows; false if somebody else was first.
  bool adopt(Cost* rows) {
    Cost* none = nullptr;
    return rows_.compare_exchange_strong(none, rows, std::memory_order_acq_rel);
  }

  // The row of a key, made if it is new; the one that was not used for longest gives way. Never
  // null. Any thread.
  Cost& find(uint64_t key);
  // The row if there is one.
  Cost* look(uint64_t key);
  // A key whose handle is gone.
  void forget(uint64_t key);

 private:
  Cost& row(uint64_t index) const { return rows_.load(std::memory_order_relaxed)[index]; }

  std::atomic<Cost*> rows_;
  std::atomic<uint32_t> clock_{0};
};

inline bool is_known(const Cost& cost) { return cost.samples.load(std::memory_order_relaxed) != 0; }
inline uint64_t estimate(const Cost& cost) {
  const uint64_t mean = cost.mean_ns.load(std::memory_order_relaxed);
  return mean != 0 ? mean : kUnknownCostNs;
}

// Whether this launch should be timed: the first ones are, later ones at random and so that their
// events take 0.3 % of the time.
bool is_due(Cost& cost, uint64_t random);

// Who else may have been on the GPU while a sample was taken.
enum class Company : uint8_t {
  kNobody,
  kContexts,  // another context: it takes the whole GPU for a while
  kStreams,   // other streams of the program: both run, more slowly
};
// Enters a sample. `follows`: its stream had work before it, so that the GPU came to it without a
// pause. True: it was believed.
bool learn(Cost& cost, uint64_t sample_ns, Company company, bool follows = false);

}  // namespace softmig::policy
