// Jobs that share a GPU: a discrete-event model of the card and of the programs' host threads
// drives the policy that ships (share, cost, busy) and measures who gets how much.
//
// The card serves contexts in turn, a timeslice each, and loses some time at each switch, as an
// H100 does (alone 100 %, four hungry contexts 90 % in all). Kernels are fixed work.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/mix.h"
#include "policy/busy.h"
#include "policy/cost.h"
#include "policy/share.h"

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1000 * kUs, kSecond = 1000 * kMs;
constexpr uint64_t kStart = 1000 * kSecond;
constexpr uint64_t kTimeslice = 2 * kMs, kSwitch = 200 * kUs;
constexpr uint64_t kLaunch = 4 * kUs;   // a launch takes the host this long
constexpr uint64_t kWakeUp = 30 * kUs;  // a sleeper wakes this much too late
constexpr size_t kQueueDepth = 1024;    // then a launch waits in the driver
constexpr uint64_t kNever = UINT64_MAX;

struct Program {
  std::vector<uint64_t> kernels;  // launched in turn
  uint64_t burst = 0;             // after so much work it waits for the GPU ...
  uint64_t pause = 0;             // ... and does this long something else
};

struct Kernel {
  uint64_t left, work, key, begun;
  uint64_t charged;
  bool sample;
};

// Until when each slot is claimed, and work goes on that was launched in a turn that began with it.
struct Board {
  std::array<uint64_t, 32> claims = {};
  TurnBoard turns = {};
};

// One process of one job, with the throttle's use of the policy: estimates, samples, true-ups.
class Job {
 public:
  Job(const ShareRule& rule, Program program, bool knows_costs, Board* board)
      : rule_(rule), program_(std::move(program)), board_(*board), table_(rows_.data()) {
    if (!knows_costs) return;
    for (size_t i = 0; i < program_.kernels.size(); i++) {
      for (int n = 0; n < 4; n++)
        learn(table_.find(key_of(i)), program_.kernels[i], Company::kNobody);
    }
  }

  uint64_t next_action() const { return next_; }

  // The host thread at `now`.
  void act(uint64_t now) {
    if (resting_) {
      // Waits for the GPU, then pauses.
      if (!queue_.empty()) {
        next_ = kNever;
        return;
      }
      resting_ = false;
      since_rest_ = 0;
      next_ = now + std::max<uint64_t>(program_.pause, 1);
      return;
    }
    if (queue_.size() >= kQueueDepth) {
      next_ = kNever;
      return;
    }
    Cost& row = table_.find(key_of(turn_));
    // A second launch of a kernel that nobody has seen waits for the first.
    if (!is_known(row) && row.pending != 0) {
      next_ = now + 50 * kUs;
      return;
    }
    const uint64_t work = program_.kernels[turn_ % program_.kernels.size()];
    const uint64_t cost = estimate(row);
    const uint64_t left = backlog();
    const Admission admission = admit(share_, rule_, cost, now, waited_since_ != 0,
                                      left == 0 ? 0 : now + left, board_.turns);
    if (admission.notice.until_ns != 0) {
      board_.turns.until_ns[admission.notice.slot] = admission.notice.until_ns;
    }
    if (!admission.granted) {
      if (waited_since_ == 0) waited_since_ = now;
      next_ = now + admission.wait_ns + kWakeUp;
      return;
    }
    if (waited_since_ != 0) held_ += now - waited_since_;
    waited_since_ = 0;
    watch_demand(cost, now);
    const bool sample = is_due(row, random_()) || cost >= kMs;
    if (sample) row.pending++;
    queue_.push_back({work, work, key_of(turn_), 0, cost, sample});
    since_rest_ += work;
    turn_ = (turn_ + 1) % program_.kernels.size();
    resting_ = program_.burst != 0 && since_rest_ >= program_.burst;
    next_ = now + kLaunch;
  }

  bool has_work() const { return !queue_.empty(); }
  uint64_t left() const { return queue_.front().left; }

  // The GPU worked for this job.
  void serve(uint64_t ns, uint64_t now, uint64_t from, bool alone) {
    Kernel& kernel = queue_.front();
    if (kernel.left == kernel.work) kernel.begun = now - ns;
    kernel.left -= ns;
    if (now > from) done_ += std::min(ns, now - from);
    if (kernel.left != 0) return;
    if (kernel.sample) finish(kernel, now, alone);
    queue_.pop_front();
    if (next_ == kNever) next_ = now + 10 * kUs;
  }

  double share(uint64_t duration) const {
    return 100 * static_cast<double>(done_) / static_cast<double>(duration);
  }

 private:
  static uint64_t key_of(size_t kernel) { return base::mix(kernel, 77); }

  uint64_t backlog() const {
    uint64_t all = 0;
    for (const Kernel& kernel : queue_) all += kernel.left;
    return all;
  }

  void watch_demand(uint64_t cost, uint64_t now) {
    if (!rule_.has_slots()) return;
    asked_ += cost;
    if (now < board_due_) return;
    board_due_ = now + rule_.frame_ns;
    if (now - since_ >= demand_window_ns(rule_)) {
      if (since_ != 0) note_demand(share_, rule_, {asked_, now - since_ - held_, confined_}, now);
      since_ = now;
      asked_ = held_ = 0;
      confined_ = !is_light(share_, rule_, now);
    }
    const bool light = is_light(share_, rule_, now);
    if (light) confined_ = false;
    rule_.open_mask = 0;
    for (uint32_t slot = 0; slot < rule_.slot_count; slot++) {
      const uint32_t bit = 1u << slot;
      if ((rule_.slot_mask & bit) != 0) {
        board_.claims[slot] = light ? 0 : now + 2 * demand_window_ns(rule_);
      } else if (light && board_.claims[slot] <= now) {
        rule_.open_mask |= bit;
      }
    }
  }

  void finish(const Kernel& kernel, uint64_t now, bool alone) {
    Cost& row = table_.find(kernel.key);
    row.pending--;
    const uint64_t took = now - kernel.begun;
    learn(row, took, alone ? Company::kNobody : Company::kContexts);
    const uint64_t cost = alone ? took : kernel.charged;
    const uint64_t fits = pour(*busy_, kernel.begun, now, cost);
    if (fits > kernel.charged) charge(share_, rule_, fits - kernel.charged, now);
    if (fits < kernel.charged) refund(share_, rule_, kernel.charged - fits);
  }

  ShareRule rule_;
  Program program_;
  Board& board_;
  abi::RegionShare share_ = {};
  std::unique_ptr<abi::RegionBusy> busy_ = std::make_unique<abi::RegionBusy>();
  std::vector<Cost> rows_ = std::vector<Cost>(CostTable::kRows);
  CostTable table_;
  std::mt19937_64 random_{1};
  std::deque<Kernel> queue_;
  size_t turn_ = 0;
  uint64_t next_ = kStart, since_rest_ = 0, done_ = 0;
  uint64_t waited_since_ = 0, held_ = 0, asked_ = 0, since_ = 0, board_due_ = 0;
  bool confined_ = false, resting_ = false;
};

class Card {
 public:
  void add(const ShareRule& rule, Program program, bool knows_costs = true) {
    jobs_.push_back(std::make_unique<Job>(rule, std::move(program), knows_costs, &board_));
  }

  // Shares in percent over `duration`, from one second after the start on.
  std::vector<double> run(uint64_t duration) {
    const uint64_t from = kStart + kSecond, to = from + duration;
    uint64_t now = kStart, slice_end = 0;
    size_t current = 0;
    while (now < to) {
      uint64_t host = to;
      for (const auto& job : jobs_) host = std::min(host, job->next_action());
      if (host <= now) {
        for (const auto& job : jobs_) {
          if (job->next_action() <= now) job->act(now);
        }
        continue;
      }
      if (!jobs_[current]->has_work() || (now >= slice_end && others_wait(current))) {
        const size_t next = next_with_work(current);
        if (next == jobs_.size()) {
          now = host;
          continue;
        }
        if (next != current) now += kSwitch;
        current = next;
        slice_end = now + kTimeslice;
        continue;
      }
      uint64_t until = std::min(host, now + jobs_[current]->left());
      if (others_wait(current)) until = std::min(until, std::max(slice_end, now + 1));
      jobs_[current]->serve(until - now, until, from, jobs_.size() == 1);
      now = until;
    }
    std::vector<double> shares;
    for (const auto& job : jobs_) shares.push_back(job->share(duration));
    return shares;
  }

 private:
  bool others_wait(size_t current) const {
    const size_t next = next_with_work(current);
    return next != current && next != jobs_.size();
  }
  size_t next_with_work(size_t current) const {
    for (size_t i = 1; i <= jobs_.size(); i++) {
      const size_t job = (current + i) % jobs_.size();
      if (jobs_[job]->has_work()) return job;
    }
    return jobs_.size();
  }

  Board board_ = {};
  std::vector<std::unique_ptr<Job>> jobs_;
};

ShareRule percent(uint32_t share) { return {.percent = share}; }
ShareRule slots(uint32_t share, uint32_t mask, uint32_t count, ShareMode mode = ShareMode::kFill) {
  return {.percent = share, .mode = mode, .slot_mask = mask, .slot_count = count};
}
Program hungry(uint64_t kernel) { return {.kernels = {kernel}}; }
double sum(const std::vector<double>& shares) {
  double all = 0;
  for (const double share : shares) all += share;
  return all;
}
std::string text(const std::vector<double>& shares) {
  std::string all;
  for (const double share : shares) all += std::to_string(share) + " ";
  return all;
}

TEST(ShareModel, AloneEveryLimitHoldsForEveryKernel) {
  for (const uint32_t limit : {10u, 25u, 50u, 75u, 90u}) {
    for (const uint64_t kernel : {20 * kUs, 200 * kUs, 2 * kMs, 20 * kMs, 200 * kMs}) {
      Card card;
      card.add(percent(limit), hungry(kernel));
      const double one = 100.0 * static_cast<double>(kernel) / (10.0 * kSecond);
      EXPECT_NEAR(card.run(10 * kSecond)[0], limit, std::max(1.0, one)) << kernel / kUs << " us";
    }
  }
}

TEST(ShareModel, ColdStartsAreNoException) {
  for (const uint64_t kernel : {20 * kUs, 2 * kMs, 200 * kMs}) {
    Card card;
    card.add(percent(25), hungry(kernel), false);
    const double one = 100.0 * static_cast<double>(kernel) / (10.0 * kSecond);
    EXPECT_NEAR(card.run(10 * kSecond)[0], 25, std::max(1.0, one)) << kernel / kUs << " us";
  }
}

TEST(ShareModel, MixedKernelsAreChargedEachItsOwn) {
  for (const bool known : {true, false}) {
    Card card;
    card.add(percent(25), {.kernels = {20 * kUs, 20 * kUs, 5 * kMs, 200 * kUs, 50 * kMs}}, known);
    EXPECT_NEAR(card.run(10 * kSecond)[0], 25, 1);
  }
}

TEST(ShareModel, AJobBelowItsLimitIsNotHeldBack) {
  // 1 ms of work, 9 ms of something else: a tenth of the card.
  const Program program{.kernels = {200 * kUs}, .burst = kMs, .pause = 9 * kMs};
  Card free, limited;
  free.add(percent(99), program);
  limited.add(percent(25), program);
  EXPECT_NEAR(limited.run(10 * kSecond)[0], free.run(10 * kSecond)[0], 0.05);
}

TEST(ShareModel, FourQuartersWithoutSlotsLoseWhatTheHardwareLoses) {
  for (const uint64_t kernel : {20 * kUs, 200 * kUs, 2 * kMs}) {
    Card card;
    for (int i = 0; i < 4; i++) card.add(percent(25), hungry(kernel));
    const auto shares = card.run(10 * kSecond);
    for (const double share : shares) EXPECT_NEAR(share, sum(shares) / 4, 1) << text(shares);
    EXPECT_GT(sum(shares), 88) << text(shares);
  }
}

TEST(ShareModel, FourQuartersInSlotsGetTheirs) {
  for (const uint64_t kernel : {20 * kUs, 200 * kUs, 2 * kMs}) {
    Card card;
    for (uint32_t i = 0; i < 4; i++) card.add(slots(25, 1u << i, 4), hungry(kernel));
    const auto shares = card.run(10 * kSecond);
    // 0.6 ms of each slot of 10 go to the switch and to work that was not there in time.
    for (const double share : shares) EXPECT_NEAR(share, 25, 1.8) << text(shares);
    EXPECT_GT(sum(shares), 93) << text(shares);
  }
}

TEST(ShareModel, UnequalSharesInSlotsGetTheirs) {
  Card card;
  card.add(slots(50, 0b0011, 4), hungry(200 * kUs));
  card.add(slots(25, 0b0100, 4), hungry(200 * kUs));
  card.add(slots(25, 0b1000, 4), hungry(200 * kUs));
  const auto shares = card.run(10 * kSecond);
  EXPECT_NEAR(shares[0], 50, 1.8) << text(shares);
  EXPECT_NEAR(shares[1], 25, 1.8) << text(shares);
  EXPECT_NEAR(shares[2], 25, 1.8) << text(shares);
}

TEST(ShareModel, TenAndNinety) {
  Card card;
  card.add(slots(10, 1, 10), hungry(200 * kUs));
  card.add(slots(90, 0x3fe, 10), hungry(200 * kUs));
  const auto shares = card.run(10 * kSecond);
  EXPECT_NEAR(shares[0], 10, 1) << text(shares);
  EXPECT_NEAR(shares[1], 90, 2.5) << text(shares);
}

constexpr ShareMode kModes[] = {ShareMode::kBudget, ShareMode::kStrict, ShareMode::kFill};
// Launches that the host cannot make fast enough to fill the GPU.
const Program kHalfIdle{.kernels = {200 * kUs}, .burst = kMs, .pause = kMs};

TEST(ShareModel, AHalfIdleNeighbourTakesNothingFromTheOthers) {
  for (const ShareMode mode : kModes) {
    Card card;
    for (uint32_t i = 0; i < 3; i++) card.add(slots(25, 1u << i, 4, mode), hungry(200 * kUs));
    card.add(slots(25, 8, 4, mode), kHalfIdle);
    const auto shares = card.run(10 * kSecond);
    for (int i = 0; i < 3; i++) EXPECT_NEAR(shares[i], 25, 1.8) << text(shares);
    // What slots cost a job that cannot fill its own.
    EXPECT_GT(shares[3], mode == ShareMode::kBudget ? 13 : 11) << text(shares);
  }
}

TEST(ShareModel, HalfIdleJobsGetTheirShareOfEachOthersSlots) {
  Card with_slots, without;
  for (uint32_t i = 0; i < 4; i++) {
    with_slots.add(slots(25, 1u << i, 4), kHalfIdle);
    without.add(percent(25), kHalfIdle);
  }
  const auto shares = with_slots.run(10 * kSecond), free = without.run(10 * kSecond);
  EXPECT_GT(sum(shares), 0.97 * sum(free)) << text(shares) << text(free);
  for (const double share : shares) EXPECT_NEAR(share, sum(shares) / 4, 1) << text(shares);
}

TEST(ShareModel, AHalfIdleJobUsesSlotsThatNobodyFills) {
  Card card;
  for (uint32_t i = 0; i < 2; i++) card.add(slots(25, 1u << i, 4), hungry(200 * kUs));
  for (uint32_t i = 2; i < 4; i++) card.add(slots(25, 1u << i, 4), kHalfIdle);
  const auto shares = card.run(10 * kSecond);
  for (int i = 0; i < 2; i++) EXPECT_NEAR(shares[i], 25, 1.8) << text(shares);
  for (int i = 2; i < 4; i++) EXPECT_GT(shares[i], 16) << text(shares);
}

TEST(ShareModel, AJobThatCannotFillItsSlotsGetsItsShareAllTheSame) {
  Card card;
  card.add(slots(25, 1, 4), kHalfIdle);
  EXPECT_NEAR(card.run(10 * kSecond)[0], 25, 1);
}

TEST(ShareModel, LongKernelsBesideShortOnesCostNobodyHisShare) {
  for (const uint64_t longest : {10 * kMs, 20 * kMs, 60 * kMs}) {
    for (uint32_t hogs = 1; hogs <= (longest > 25 * kMs ? 1 : 4); hogs++) {
      Card card;
      for (uint32_t i = 0; i < 4; i++) {
        card.add(slots(25, 1u << i, 4), hungry(i < hogs ? longest : 200 * kUs));
      }
      const auto shares = card.run(10 * kSecond);
      for (const double share : shares) EXPECT_NEAR(share, 25, 1) << hogs << ": " << text(shares);
      EXPECT_GT(sum(shares), 97) << text(shares);
    }
  }
}

TEST(ShareModel, KernelsLongerThanASlotOfUnequalJobs) {
  const auto check = [](std::vector<ShareRule> rules) {
    Card card;
    for (const ShareRule& rule : rules) card.add(rule, hungry(20 * kMs));
    const auto shares = card.run(10 * kSecond);
    for (size_t i = 0; i < rules.size(); i++) {
      EXPECT_NEAR(shares[i], rules[i].percent, 1) << text(shares);
    }
    EXPECT_GT(sum(shares), 97) << text(shares);
  };
  check({slots(50, 1, 2), slots(50, 2, 2)});
  check({slots(50, 3, 4), slots(25, 4, 4), slots(25, 8, 4)});
  check({slots(10, 1, 10), slots(90, 0x3fe, 10)});
}

TEST(ShareModel, KernelsLongerThanAnythingSavedRunAllTheSame) {
  for (const uint64_t kernel : {40 * kMs, 120 * kMs, 200 * kMs, kSecond}) {
    Card card;
    for (uint32_t i = 0; i < 4; i++) card.add(slots(25, 1u << i, 4), hungry(kernel));
    const auto shares = card.run(20 * kSecond);
    for (const double share : shares) EXPECT_GT(share, 20) << kernel / kMs << ": " << text(shares);
  }
}

}  // namespace
}  // namespace softmig::policy
