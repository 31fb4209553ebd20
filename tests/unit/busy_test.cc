#include "policy/busy.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1000 * kUs, kSecond = 1000 * kMs;
constexpr uint64_t kStart = 1000 * kSecond;
constexpr double kTolerance = 0.01;

class Busy : public ::testing::Test {
 protected:
  std::unique_ptr<abi::RegionBusy> ring = std::make_unique<abi::RegionBusy>();
};

// At both ends a cell may hold what was poured into another part of it.
constexpr uint64_t kEnds = 2 * kBusyCellNs;

TEST_F(Busy, WorkThatFillsItsTimeFits) {
  EXPECT_EQ(pour(*ring, kStart, kStart + 20 * kMs, 20 * kMs), 20 * kMs);
  EXPECT_LE(pour(*ring, kStart, kStart + 20 * kMs, 20 * kMs), kEnds) << "the same time again";
}

TEST_F(Busy, HalfAndHalfFit) {
  EXPECT_EQ(pour(*ring, kStart, kStart + 20 * kMs, 10 * kMs), 10 * kMs);
  EXPECT_EQ(pour(*ring, kStart, kStart + 20 * kMs, 10 * kMs), 10 * kMs)
      << "two processes that are switched against each other";
  EXPECT_LE(pour(*ring, kStart, kStart + 20 * kMs, 10 * kMs), kEnds);
}

TEST_F(Busy, OverlappingStreamsAreChargedTheirUnion) {
  uint64_t charged = 0, now = kStart;
  for (int i = 0; i < 1000; i++) {
    for (int stream = 0; stream < 4; stream++) {
      charged += pour(*ring, now + stream * 50 * kUs, now + stream * 50 * kUs + kMs, kMs);
    }
    now += kMs;
  }
  EXPECT_NEAR(charged, kSecond, kSecond * kTolerance);
}

TEST_F(Busy, ReportsThatAreLateCountOnce) {
  // Two processes take turns of 5 ms; one reports at once, the other 10 ms late.
  uint64_t charged = 0, now = kStart;
  for (int turn = 0; turn < 1000; turn++, now += 10 * kMs) {
    charged += pour(*ring, now, now + 5 * kMs, 5 * kMs);
    charged += pour(*ring, now - 15 * kMs, now - 10 * kMs, 5 * kMs);
  }
  EXPECT_NEAR(charged, 10 * kSecond, 10 * kSecond * kTolerance);
}

TEST_F(Busy, ALapLaterTheRingIsEmpty) {
  const uint64_t later = kStart + kBusyLapNs;
  ASSERT_EQ(pour(*ring, kStart, kStart + kMs, kMs), kMs);
  EXPECT_EQ(pour(*ring, later, later + kMs, kMs), kMs);
  EXPECT_EQ(pour(*ring, kStart, kStart + kMs, kMs), kMs) << "what nobody can tell is charged";
}

TEST_F(Busy, WorkLongerThanALapIsCharged) {
  EXPECT_EQ(pour(*ring, kStart, kStart + 30 * kSecond, 30 * kSecond), 30 * kSecond);
}

TEST_F(Busy, EmptyAndBackwardIntervalsHoldNothing) {
  EXPECT_EQ(pour(*ring, kStart, kStart, kMs), 0u);
  EXPECT_EQ(pour(*ring, kStart + 1, kStart, kMs), 0u);
  EXPECT_EQ(pour(*ring, kStart, kStart + kMs, 0), 0u);
}

TEST_F(Busy, GarbageIsHarmless) {
  std::mt19937_64 random(5);
  for (auto& word : ring->word) word.store(random());
  for (int i = 0; i < 10000; i++) {
    const uint64_t begin = kStart + random() % (4 * kSecond), cost = random() % (20 * kMs);
    EXPECT_LE(pour(*ring, begin, begin + random() % (20 * kMs), cost), cost);
  }
}

// However intervals lie, what is charged is at most their costs and at most their union.
TEST_F(Busy, NeverMoreThanTheUnion) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 50; round++) {
    ring = std::make_unique<abi::RegionBusy>();
    const uint64_t base = kStart + round * 10 * kSecond;
    uint64_t charged = 0, costs = 0, end = base;
    for (int i = 0; i < 500; i++) {
      const uint64_t length = 1 + random() % (3 * kMs), begin = base + random() % kSecond;
      const uint64_t cost = random() % length;
      costs += cost;
      charged += pour(*ring, begin, begin + length, cost);
      end = std::max(end, begin + length);
    }
    EXPECT_LE(charged, costs);
    EXPECT_LE(charged, end - base + kMs);
  }
}

TEST_F(Busy, SmallPiecesAddUp) {
  uint64_t charged = 0, costs = 0;
  std::mt19937_64 random(13);
  uint64_t now = kStart;
  for (int i = 0; i < 10000; i++) {
    const uint64_t length = 5 * kUs + random() % (100 * kUs);
    charged += pour(*ring, now, now + length, length);
    costs += length;
    now += length;
  }
  EXPECT_NEAR(charged, costs, static_cast<double>(costs) * kTolerance);
}

}  // namespace
}  // namespace softmig::policy
