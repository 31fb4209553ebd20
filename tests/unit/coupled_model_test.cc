// Two ranks, one GPU each, whose steps end in a collective: its kernel spins until the other rank's
// is there. The policy alone, on hosts and GPUs that a few lines imitate.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "policy/share.h"

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1'000'000, kSecond = 1'000'000'000;
constexpr uint64_t kStart = 1000 * kSecond;
constexpr uint64_t kTick = 5 * kUs;
constexpr uint64_t kNap = 50 * kUs;

struct Model {
  int products;              // kernels per step
  uint64_t product, gather;  // what they and the collective take, ns
  uint64_t launch;           // what the host needs for one, ns
  uint64_t late;             // how much later than asked for the second rank's host wakes, ns
  uint32_t percent[2];       // 0: no limit
  uint64_t skew = 0;         // how much later the second rank begins, ns
  uint64_t rest = 0;         // how long it does nothing after step 100, ns
};

struct Work {
  bool collective;
  uint64_t charged, reached;
};

struct Rank {
  int next = 0;  // of the step's kernels; the last is the collective
  uint64_t ready_at = kStart;
  std::deque<Work> queue;
  uint64_t done_at = 0;  // of the front; 0: not begun, or it spins
  uint64_t busy = 0;
  int steps = 0;
};

class Machine {
 public:
  explicit Machine(const Model& model) : model_(model) { ranks_[1].ready_at += model.skew; }

  // Steps per second of the slower rank, and the larger share of time of a GPU.
  double run(uint64_t duration, double* share) {
    for (now_ = kStart; now_ < kStart + duration; now_ += kTick) {
      for (int i = 0; i < 2; i++) host(i);
      for (int i = 0; i < 2; i++) gpu(i);
    }
    *share = static_cast<double>(std::max(ranks_[0].busy, ranks_[1].busy)) /
             static_cast<double>(duration);
    return std::min(ranks_[0].steps, ranks_[1].steps) * 1e9 / static_cast<double>(duration);
  }

 private:
  ShareRule rule(int i) const { return {.percent = model_.percent[i]}; }

  void host(int i) {
    Rank& rank = ranks_[i];
    if (rank.ready_at > now_ || rank.queue.size() > 1000) return;
    const bool collective = rank.next == model_.products;
    const uint64_t cost = collective ? model_.gather : model_.product;
    if (model_.percent[i] != 0) {
      const Admission admission =
          collective ? admit_collective(shares_, i, rule(i), cost, now_) : admit_compute(i, cost);
      if (!admission.granted) {
        rank.ready_at =
            now_ + std::max(admission.wait_ns, kNap) - kNap + (i == 1 ? model_.late : 0);
        return;
      }
    }
    if (collective) count_collective(shares_[i], now_);
    rank.queue.push_back({collective, cost, 0});
    rank.next = collective ? 0 : rank.next + 1;
    rank.ready_at = now_ + model_.launch;
    if (collective && i == 1 && ++joined_ == 100) rank.ready_at += model_.rest;
  }

  Admission admit_compute(int i, uint64_t cost) {
    const ShareRule own =
        is_coupled(shares_[i], now_) ? rule(i).with_credit(is_awaited(shares_, i, now_)) : rule(i);
    return admit(shares_[i], own, cost, now_, false);
  }

  void gpu(int i) {
    Rank& rank = ranks_[i];
    while (!rank.queue.empty()) {
      Work& work = rank.queue.front();
      if (work.reached == 0) {
        work.reached = now_;
        if (!work.collective) rank.done_at = now_ + model_.product;
      }
      Rank& peer = ranks_[1 - i];
      if (work.collective && rank.done_at == 0 && !peer.queue.empty() &&
          peer.queue.front().collective && peer.queue.front().reached != 0 &&
          rank.steps == peer.steps) {
        rank.done_at = peer.done_at = now_ + model_.gather;
      }
      if (rank.done_at == 0 || rank.done_at > now_) return;
      finish(i, work);
    }
  }

  void finish(int i, const Work& work) {
    Rank& rank = ranks_[i];
    const uint64_t took = rank.done_at - work.reached;
    rank.busy += took;
    if (model_.percent[i] != 0 && took > work.charged) {
      (work.collective ? charge_spin : charge)(shares_[i], rule(i), took - work.charged, now_);
    }
    rank.steps += work.collective ? 1 : 0;
    rank.done_at = 0;
    rank.queue.pop_front();
  }

  Model model_;
  abi::RegionShare shares_[2] = {};
  Rank ranks_[2];
  uint64_t now_ = 0;
  int joined_ = 0;  // collectives of the second rank
};

double rate_of(Model model, uint32_t first, uint32_t second, double* share) {
  model.percent[0] = first;
  model.percent[1] = second;
  return Machine(model).run(10 * kSecond, share);
}

class CoupledModel : public testing::TestWithParam<Model> {};

TEST_P(CoupledModel, GetsTheShareOfTheStrictestLimit) {
  double share = 0;
  const double native = rate_of(GetParam(), 0, 0, &share);
  const uint32_t limits[][2] = {{25, 25}, {50, 50}, {10, 10}, {25, 60}, {90, 90}};
  for (const auto& limit : limits) {
    const double least = std::min(limit[0], limit[1]);
    const double got = 100 * rate_of(GetParam(), limit[0], limit[1], &share) / native;
    EXPECT_GT(got, 0.85 * least) << limit[0] << "/" << limit[1];
    EXPECT_LT(got, 1.03 * least + 0.5) << limit[0] << "/" << limit[1];
    EXPECT_LT(100 * share, 1.03 * std::max(limit[0], limit[1]) + 0.5);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Loads, CoupledModel,
    testing::Values(Model{8, 170 * kUs, 150 * kUs, 5 * kUs, 0, {}, 0, 0},
                    Model{8, 170 * kUs, 150 * kUs, 5 * kUs, 60 * kUs, {}, 0, 0},
                    Model{8, 170 * kUs, 150 * kUs, 40 * kUs, 100 * kUs, {}, 0, 0},
                    Model{40, 2 * kMs, 5 * kMs, 10 * kUs, 100 * kUs, {}, 0, 0}));

// The first rank spins all that time. It is charged for it, but the job comes back.
class UnevenModel : public testing::TestWithParam<uint32_t> {};

TEST_P(UnevenModel, ComesBackAfterALateStart) {
  const double percent = GetParam();
  Model model{8, 170 * kUs, 150 * kUs, 5 * kUs, 60 * kUs, {}, 0, 0};
  double share = 0;
  const double native = rate_of(model, 0, 0, &share);
  model.skew = 3 * kSecond;  // of the ten that are looked at; then up to two are paid back
  EXPECT_GT(100 * rate_of(model, GetParam(), GetParam(), &share) / native, 0.4 * percent);
}

TEST_P(UnevenModel, ComesBackAfterARest) {
  const double percent = GetParam();
  Model model{8, 170 * kUs, 150 * kUs, 5 * kUs, 60 * kUs, {}, 0, 0};
  double share = 0;
  const double native = rate_of(model, 0, 0, &share);
  model.rest = kSecond;
  const double got = 100 * rate_of(model, GetParam(), GetParam(), &share) / native;
  EXPECT_GT(got, 0.6 * percent);
  EXPECT_LT(got, 1.03 * percent + 0.5);
}

INSTANTIATE_TEST_SUITE_P(Limits, UnevenModel, testing::Values(10, 25, 50, 75));

}  // namespace
}  // namespace softmig::policy
