#include "policy/cost.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "base/mix.h"

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1000 * kUs;

class Costs : public ::testing::Test {
 protected:
  std::vector<Cost> rows = std::vector<Cost>(CostTable::kRows);
  CostTable table{rows.data()};
  std::mt19937_64 random{1};
};

TEST_F(Costs, UnknownIsAGuess) {
  Cost& cost = table.find(base::mix(1, 2));
  EXPECT_FALSE(is_known(cost));
  EXPECT_EQ(estimate(cost), kUnknownCostNs);
  EXPECT_EQ(&table.find(base::mix(1, 2)), &cost);
  EXPECT_EQ(table.look(base::mix(1, 3)), nullptr);
}

TEST_F(Costs, ManyKeysStayApart) {
  std::set<Cost*> seen;
  for (uint64_t i = 0; i < 2000; i++)
    seen.insert(&table.find(base::mix(i, 0x7f0000001000 + i * 64)));
  EXPECT_EQ(seen.size(), 2000u);
}

TEST_F(Costs, AFullTableForgetsWhatIsNotUsed) {
  const uint64_t kept = base::mix(1, 1);
  learn(table.find(kept), 123 * kUs, Company::kNobody);
  for (uint64_t i = 0; i < 200000; i++) {
    table.find(base::mix(i, i * 64));
    if (i % 4 == 0) table.find(kept);
  }
  EXPECT_EQ(estimate(table.find(kept)), 123 * kUs);
}

TEST_F(Costs, AForgottenKeyIsUnknownAndItsNeighboursAreNot) {
  for (uint64_t i = 0; i < 5000; i++)
    learn(table.find(base::mix(i, 9)), (i + 1) * kUs, Company::kNobody);
  table.forget(base::mix(7, 9));
  EXPECT_FALSE(is_known(table.find(base::mix(7, 9))));
  EXPECT_EQ(estimate(table.find(base::mix(8, 9))), 9 * kUs);
}

TEST_F(Costs, TheMeanIsUnbiased) {
  // One in ten launches takes fifty times as long; the mean of the estimates is the mean.
  Cost& cost = table.find(base::mix(1, 1));
  double charged = 0, took = 0;
  for (int i = 0; i < 300000; i++) {
    const uint64_t length = random() % 10 == 0 ? kMs : 20 * kUs;
    took += static_cast<double>(length);
    charged += static_cast<double>(estimate(cost));
    if (is_due(cost, random())) learn(cost, length, Company::kNobody);
  }
  EXPECT_NEAR(charged / took, 1, 0.05);
}

TEST_F(Costs, AColdFirstLaunchDoesNotCount) {
  Cost& cost = table.find(base::mix(1, 1));
  learn(cost, 10 * kMs, Company::kNobody);
  learn(cost, 100 * kUs, Company::kNobody);
  EXPECT_EQ(estimate(cost), 100 * kUs);
}

TEST_F(Costs, PreemptedSamplesAreNotBelieved) {
  Cost& cost = table.find(base::mix(1, 1));
  for (int i = 0; i < 4; i++) learn(cost, 200 * kUs, Company::kNobody);
  for (int i = 0; i < 1000; i++)
    learn(cost, i % 3 == 0 ? 200 * kUs : 2200 * kUs, Company::kContexts);
  EXPECT_NEAR(estimate(cost), 200 * kUs, 10 * kUs);
}

TEST_F(Costs, AFirstPreemptedSampleIsMended) {
  Cost& cost = table.find(base::mix(1, 1));
  learn(cost, 5 * kMs, Company::kContexts);
  learn(cost, 200 * kUs, Company::kContexts);
  learn(cost, 200 * kUs, Company::kContexts);
  EXPECT_NEAR(estimate(cost), 200 * kUs, 1 * kUs);
}

TEST_F(Costs, StreamsThatSlowEachOtherNearlyAlwaysDoNotMakeAKernelDear) {
  Cost& cost = table.find(base::mix(1, 1));
  for (int i = 0; i < 4; i++) learn(cost, 200 * kUs, Company::kNobody);
  for (int i = 0; i < 20000; i++) {
    const uint64_t streams = random() % 10 == 0 ? 1 : 2 + random() % 3;
    learn(cost, streams * 200 * kUs, Company::kStreams);
    ASSERT_LT(estimate(cost), 210 * kUs) << "at sample " << i;
  }
}

TEST_F(Costs, ADearerKernelOnManyStreamsIsBelievedWithinASecond) {
  Cost& cost = table.find(base::mix(1, 1));
  for (int i = 0; i < 32; i++) learn(cost, 20 * kUs, Company::kStreams);
  uint64_t gpu = 0;
  for (; estimate(cost) < 100 * kUs && gpu < 10000 * kMs; gpu += 100 * kUs) {
    if (is_due(cost, random())) learn(cost, (100 + random() % 300) * kUs, Company::kStreams);
  }
  EXPECT_LT(gpu, 500 * kMs);
}

TEST_F(Costs, ADearerKernelIsBelievedInTheEnd) {
  Cost& cost = table.find(base::mix(1, 1));
  for (int i = 0; i < 32; i++) learn(cost, 200 * kUs, Company::kNobody);
  for (int i = 0; i < 20; i++) learn(cost, 9 * kMs, Company::kContexts);
  EXPECT_EQ(estimate(cost), 9 * kMs);
}

TEST_F(Costs, WhatVariedAndIsOneKindNowIsLearntAnew) {
  for (const uint64_t now : {20 * kUs, 2 * kMs}) {
    Cost& cost = table.find(base::mix(1, now));
    for (int i = 0; i < 400; i++) {
      learn(cost, random() % 2 == 0 ? 20 * kUs : 2 * kMs, Company::kContexts, true);
    }
    ASSERT_TRUE(cost.varies);
    // The GPU is idle before each of them.
    for (int i = 0; i < 128; i++) learn(cost, now, Company::kContexts);
    EXPECT_EQ(estimate(cost), now);
  }
}

// A kernel whose arguments decide what it takes, beside an idle context or beside hungry ones: how
// much is charged of what it takes.
struct Varied {
  uint64_t cheap, dear;
  int one_in;  // of how many launches one is dear
  int hungry;  // contexts that want the GPU as well
  double least, most;
};

class VariedCosts : public testing::TestWithParam<Varied> {
 protected:
  // Each turn of the others cuts whatever runs. What is longer than a turn is cut every time:
  // nothing tells that from its cost.
  uint64_t with_turns(uint64_t length) {
    constexpr uint64_t kTurn = 2 * kMs;
    uint64_t took = length;
    for (turn_left_ -= static_cast<int64_t>(length); turn_left_ < 0; turn_left_ += kTurn)
      took += static_cast<uint64_t>(GetParam().hungry) * kTurn;
    return took;
  }

  std::mt19937_64 random_{7};
  int64_t turn_left_ = 2 * kMs;
};

TEST_P(VariedCosts, AreChargedAboutWhatTheyTake) {
  const Varied& varied = GetParam();
  std::vector<Cost> rows(CostTable::kRows);
  CostTable costs(rows.data());
  Cost& cost = costs.find(base::mix(1, 1));
  double charged = 0, took = 0;
  for (int i = 0; i < 400000; i++) {
    const uint64_t length =
        varied.one_in != 0 && random_() % static_cast<uint64_t>(varied.one_in) == 0 ? varied.dear
                                                                                    : varied.cheap;
    const uint64_t seen = with_turns(length);
    if (i > 100000) {
      took += static_cast<double>(length);
      charged += static_cast<double>(estimate(cost));
    }
    if (is_due(cost, random_())) learn(cost, seen, Company::kContexts, true);
  }
  EXPECT_GT(charged / took, varied.least);
  EXPECT_LT(charged / took, varied.most);
}

INSTANTIATE_TEST_SUITE_P(Kinds, VariedCosts,
                         testing::Values(Varied{20 * kUs, 2 * kMs, 2, 0, 0.9, 1.1},
                                         Varied{20 * kUs, 1 * kMs, 2, 3, 0.9, 1.2},
                                         Varied{20 * kUs, 2 * kMs, 8, 0, 0.9, 1.1},
                                         Varied{20 * kUs, 1 * kMs, 8, 3, 0.8, 1.3},
                                         Varied{200 * kUs, 5 * kMs, 2, 0, 0.9, 1.1},
                                         // These do not vary, however often they are cut.
                                         Varied{20 * kUs, 0, 0, 0, 0.95, 1.1},
                                         Varied{20 * kUs, 0, 0, 7, 0.95, 1.1},
                                         Varied{200 * kUs, 0, 0, 3, 0.95, 1.1},
                                         Varied{1 * kMs, 0, 0, 3, 0.95, 1.3}));

TEST_F(Costs, FirstLaunchesAreTimedOneAfterTheOther) {
  Cost& cost = table.find(base::mix(1, 1));
  EXPECT_TRUE(is_due(cost, random()));
  cost.pending = 1;
  EXPECT_FALSE(is_due(cost, random()));
}

TEST_F(Costs, SamplingTakesAThirdOfAPercent) {
  for (const uint64_t length : {5 * kUs, 20 * kUs, 100 * kUs}) {
    Cost& cost = table.find(base::mix(1, length));
    for (int i = 0; i < 8; i++) learn(cost, length, Company::kNobody);
    int samples = 0;
    constexpr int kLaunches = 200000;
    for (int i = 0; i < kLaunches; i++) samples += is_due(cost, random());
    const double part = samples * 3000.0 / (static_cast<double>(length) * kLaunches);
    EXPECT_LT(part, 0.004) << length;
    EXPECT_GT(part, 0.001) << length;
  }
}

TEST(Natures, AreKnownByName) {
  EXPECT_EQ(nature_of("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"),
            Nature::kCollective);
  EXPECT_EQ(nature_of("_Z8my_ncclxPf"), Nature::kOrdinary);
  EXPECT_EQ(nature_of(""), Nature::kOrdinary);
}

}  // namespace
}  // namespace softmig::policy
