// The share of GPU time of one job on one device: an account in virtual time, and the slots of a
// frame in which the job's work should run.
//
// The account is one word, `paid_until`: the moment up to which the job's share is spent. Charging
// c ns of GPU time at p percent moves it on by c * 100 / p; it never lags behind the clock by more
// than a burst, so what was not used is lost after that. The balance is what lies between it and
// the clock, in GPU time. Work is charged when it is launched, so what is in flight is paid for and
// no process has to report that it ended: any process may die at any instant.
//
// Pure: the time is an argument, CLOCK_MONOTONIC in ns.
#pragma once

#include <cstdint>
#include <span>

#include "abi/region.h"
#include "policy/turn.h"

namespace softmig::policy {

// Where the job's launches may run when it has slots.
enum class ShareMode : uint8_t {
  kBudget,  // anywhere
  kStrict,  // in its own slots
  kFill,    // as kStrict while it can fill them; else in those as well that nobody fills
};

inline constexpr uint64_t kDefaultFrameNs = 100'000'000;

// What the config says about one device.
struct ShareRule {
  uint32_t percent = 0;  // 1..99; 0: no limit
  ShareMode mode = ShareMode::kBudget;
  uint32_t slot_mask = 0;   // own slots ...
  uint32_t slot_count = 0;  // ... of so many, 0: no slots
  uint64_t frame_ns = kDefaultFrameNs;
  uint32_t open_mask = 0;  // kFill: other slots, whose owners do not fill them (job/board.h)
  uint64_t credit_ns = 0;  // launches pass while `paid_until` is no further ahead than this

  bool operator==(const ShareRule&) const = default;
  // Slots that are all there are limit nothing.
  bool has_slots() const;
  // With the open ones as well.
  ShareRule with_open_slots() const;
  // For a device that others may wait for, or do.
  ShareRule with_credit(bool is_awaited) const;
  // How long a job may have used nothing and still have its share of that time.
  uint64_t burst_ns() const;
  // GPU time to virtual time.
  uint64_t spread(uint64_t gpu_ns) const { return gpu_ns * 100 / percent; }
  // A job that had to wait goes on when it has saved this much GPU time: it then works without
  // sleeping between launches, and the card changes between jobs less often.
  uint64_t portion_ns() const;
};

// GPU time that the job may use at once; negative: it is behind.
int64_t balance(const abi::RegionShare& share, const ShareRule& rule, uint64_t now);
// More than three quarters of the burst: the limit is not what holds this job back.
bool is_at_ease(const abi::RegionShare& share, const ShareRule& rule, uint64_t now);

struct Admission {
  bool granted;
  uint64_t wait_ns;  // not granted: when to ask again
  Notice notice = {};
};
// Asks to launch work of `cost` ns of GPU time and charges it if that is granted. `has_waited`:
// this launch was refused before. `busy_until`: when what this process has on the GPU should be
// done, by what was last seen to end; 0: it has nothing there.
Admission admit(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now,
                bool has_waited, uint64_t busy_until = 0, const TurnBoard& board = {});
// Kernels that wait on the GPU for those on other devices of the job (NCCL's). If one of them is
// let go while a peer is held, it spins and is charged for it, and then its own device is held
// while the peer spins: at 25 % each time for three times as long. So in jobs with such kernels the
// limit is kept at them: the first of a round waits until all devices that take part have paid for
// what they did, the others follow at once. Everything else on those devices passes
// (`with_credit`).
Admission admit_collective(std::span<abi::RegionShare> shares, int device, const ShareRule& rule,
                           uint64_t cost, uint64_t now);
// One was launched.
void count_collective(abi::RegionShare& share, uint64_t now);
// Whether another device has come to a collective that this one has not come to.
bool is_awaited(std::span<const abi::RegionShare> shares, int device, uint64_t now);
// Whether the device took part in one in the last seconds.
bool is_coupled(const abi::RegionShare& share, uint64_t now);

// Charges without asking.
void charge(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now);
// Charges a collective for the time that it waited for others, but leaves the job no further behind
// than two seconds (of the default frame): a rank that starts late must not cost it minutes.
void charge_spin(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t now);
// Gives GPU time back that was charged and not used.
void refund(abi::RegionShare& share, const ShareRule& rule, uint64_t cost);

// What a process asked of the GPU between two moments: GPU time of its launches, and the time in
// which it was not held at the gate. Their ratio says whether it could fill its slots if it had
// nothing but them.
struct Demand {
  uint64_t gpu_ns, free_ns;
  bool confined;  // the job kept to its slots all that time, so nobody else slowed it down there
};
// How long a demand is watched.
uint64_t demand_window_ns(const ShareRule& rule);
void note_demand(abi::RegionShare& share, const ShareRule& rule, const Demand& demand,
                 uint64_t now);
// The job cannot fill its slots. It then leaves them to others, and may use what others leave.
bool is_light(const abi::RegionShare& share, const ShareRule& rule, uint64_t now);

}  // namespace softmig::policy
