// The account of GPU time with invented clocks (policy/share.h).
#include "policy/share.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1000 * kUs, kSecond = 1000 * kMs;
constexpr uint64_t kStart = 1000 * kSecond;

ShareRule quarter(ShareMode mode = ShareMode::kBudget, uint32_t mask = 0, uint32_t count = 0) {
  return {
      .percent = 25, .mode = mode, .slot_mask = mask, .slot_count = count, .frame_ns = 40 * kMs};
}

TEST(Share, StartsWithOneBurst) {
  const abi::RegionShare share = {};
  EXPECT_EQ(balance(share, quarter(), kStart), 10 * static_cast<int64_t>(kMs));
  EXPECT_TRUE(is_at_ease(share, quarter(), kStart));
}

TEST(Share, ChargesAtThePercent) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  EXPECT_TRUE(admit(share, rule, 10 * kMs, kStart, false).granted);
  EXPECT_EQ(balance(share, rule, kStart), 0);
  EXPECT_FALSE(admit(share, rule, kMs, kStart, false).granted);
  EXPECT_EQ(balance(share, rule, kStart + 4 * kMs), static_cast<int64_t>(kMs));
}

TEST(Share, LongWorkRunsAndIsPaidForAfterwards) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  EXPECT_TRUE(admit(share, rule, 210 * kMs, kStart, false).granted);
  EXPECT_EQ(balance(share, rule, kStart), -200 * static_cast<int64_t>(kMs));
  EXPECT_FALSE(admit(share, rule, 1, kStart + 799 * kMs, false).granted);
  EXPECT_TRUE(admit(share, rule, 1, kStart + 801 * kMs, false).granted);
}

TEST(Share, WhoWaitedSavesAPortion) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  ASSERT_TRUE(admit(share, rule, 10 * kMs, kStart, false).granted);
  EXPECT_TRUE(admit(share, rule, 1, kStart + kMs, false).granted);
  EXPECT_FALSE(admit(share, rule, 1, kStart + kMs, true).granted);
  EXPECT_FALSE(admit(share, rule, 1, kStart + 3990 * kUs, true).granted);
  EXPECT_TRUE(admit(share, rule, 1, kStart + 4010 * kUs, true).granted);
}

TEST(Share, IdleTimeIsSavedForOneBurstOnly) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  ASSERT_TRUE(admit(share, rule, kMs, kStart, false).granted);
  EXPECT_EQ(balance(share, rule, kStart + 3600 * kSecond), 10 * static_cast<int64_t>(kMs));
}

TEST(Share, RefundGivesBackWhatWasCharged) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  ASSERT_TRUE(admit(share, rule, 30 * kMs, kStart, false).granted);
  refund(share, rule, 25 * kMs);
  EXPECT_EQ(balance(share, rule, kStart), 5 * static_cast<int64_t>(kMs));
  refund(share, rule, 3600 * kSecond);
  EXPECT_EQ(balance(share, rule, kStart), 10 * static_cast<int64_t>(kMs)) << "never above a burst";
}

TEST(Share, OutlivesARestart) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  ASSERT_TRUE(admit(share, rule, kSecond, 1000000 * kSecond, false).granted);
  EXPECT_TRUE(admit(share, rule, kMs, 100 * kSecond, false).granted);
}

TEST(Share, OneOfManyThreadsCrossesTheLine) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter();
  std::atomic<int> granted{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; i++) {
    threads.emplace_back([&] {
      for (int n = 0; n < 1000; n++)
        granted += admit(share, rule, 100 * kUs, kStart, false).granted;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(granted, 100);
}

// Whatever a job launches, what it is granted in any stretch of time is its share, a burst, and one
// piece of work.
TEST(Share, NeverGrantsMoreThanTheLimit) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; round++) {
    abi::RegionShare share = {};
    ShareRule rule{.percent = static_cast<uint32_t>(1 + random() % 99),
                   .mode = static_cast<ShareMode>(random() % 3),
                   .slot_mask = static_cast<uint32_t>(random()),
                   .slot_count = static_cast<uint32_t>(random() % 9),
                   .frame_ns = kMs * (5 + random() % 200)};
    uint64_t now = kStart + random() % kSecond, granted = 0, largest = 0;
    const uint64_t begin = now;
    bool waited = false;
    for (int i = 0; i < 3000; i++) {
      const uint64_t cost = 1 + random() % (uint64_t{1} << random() % 26);
      const Admission admission = admit(share, rule, cost, now, waited);
      waited = !admission.granted;
      if (admission.granted) {
        granted += cost;
        largest = std::max(largest, cost);
      } else {
        ASSERT_GT(admission.wait_ns, 0u);
        now += admission.wait_ns;
      }
      now += random() % 5000;
      const uint64_t due = (now - begin + rule.burst_ns()) * rule.percent / 100;
      ASSERT_LE(granted, due + largest + 3000) << "round " << round;
    }
  }
}

// A hungry job that asks when it is told to gets its share, with slots or without.
TEST(Share, AHungryJobGetsItsShare) {
  for (const uint64_t kernel : {20 * kUs, 200 * kUs, 2 * kMs, 20 * kMs, 200 * kMs}) {
    for (const uint32_t percent : {10u, 25u, 50u, 75u, 90u}) {
      abi::RegionShare share = {};
      const ShareRule rule{.percent = percent};
      uint64_t now = kStart, work = 0, counted = 0;
      const uint64_t from = kStart + kSecond, to = from + 20 * kSecond;
      bool waited = false;
      while (now < to) {
        const Admission admission = admit(share, rule, kernel, now, waited);
        waited = !admission.granted;
        if (admission.granted) {
          work += kernel;
          if (now >= from) counted += kernel;
          now += 4 * kUs;
        } else {
          now += admission.wait_ns;
        }
      }
      const double got = 100.0 * static_cast<double>(counted) / static_cast<double>(to - from);
      const double one = 100.0 * static_cast<double>(kernel) / static_cast<double>(to - from);
      EXPECT_NEAR(got, percent, std::max(0.1, one) + 0.05) << kernel << " ns";
    }
  }
}

TEST(Slots, FindTheirPlace) {
  const ShareRule rule = quarter(ShareMode::kStrict, 0b0010, 4);  // 10..20 of 40 ms
  const uint64_t frame = kStart / rule.frame_ns * rule.frame_ns;
  EXPECT_FALSE(slot_at(rule, frame + 5 * kMs).own);
  EXPECT_EQ(slot_at(rule, frame + 5 * kMs).until_ns, 5 * kMs - 60 * kUs);
  EXPECT_TRUE(slot_at(rule, frame + 10 * kMs).own);
  EXPECT_TRUE(slot_at(rule, frame + 9950 * kUs).own) << "a little before";
  EXPECT_EQ(slot_at(rule, frame + 12 * kMs).left_ns, 8 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 12 * kMs).length_ns, 10 * kMs);
  EXPECT_FALSE(slot_at(rule, frame + 20 * kMs).own);
  EXPECT_EQ(slot_at(rule, frame + 25 * kMs).until_ns, 25 * kMs - 60 * kUs);
}

TEST(Slots, NeighboursAreOne) {
  const ShareRule rule = quarter(ShareMode::kStrict, 0b1001, 4);  // 30..40 and 0..10
  const uint64_t frame = kStart / rule.frame_ns * rule.frame_ns;
  EXPECT_EQ(slot_at(rule, frame + 5 * kMs).left_ns, 5 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 35 * kMs).left_ns, 15 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 35 * kMs).length_ns, 20 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 15 * kMs).until_ns, 15 * kMs - 60 * kUs);
}

TEST(Slots, AllOrNoneAreNoSlots) {
  EXPECT_FALSE(quarter(ShareMode::kStrict, 0b1111, 4).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kStrict, 0, 4).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kStrict, 1, 1).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kBudget, 1, 4).has_slots());
  EXPECT_TRUE(quarter(ShareMode::kPrefer, 1, 4).has_slots());
}

TEST(Slots, EveryMomentIsOwnOrNotLikeTheMask) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; i++) {
    const auto count = static_cast<uint32_t>(2 + random() % 31);
    const ShareRule rule{.percent = 25,
                         .mode = ShareMode::kStrict,
                         .slot_mask = static_cast<uint32_t>(random()),
                         .slot_count = count,
                         .frame_ns = kMs * (5 + random() % 500)};
    if (!rule.has_slots()) continue;
    const uint64_t now = kStart + random() % kSecond;
    const SlotPlace place = slot_at(rule, now);
    const auto own_at = [&](uint64_t when) { return slot_at(rule, when).own; };
    ASSERT_GT(place.length_ns, 0u);
    if (place.own) {
      ASSERT_LE(place.left_ns, place.length_ns + 60 * kUs);
      ASSERT_FALSE(own_at(now + place.left_ns - 60 * kUs));
      if (place.left_ns > 61 * kUs) {
        ASSERT_TRUE(own_at(now + place.left_ns - 61 * kUs));
      }
    } else {
      ASSERT_TRUE(own_at(now + place.until_ns));
      if (place.until_ns > 0) {
        ASSERT_FALSE(own_at(now + place.until_ns - 1));
      }
    }
  }
}

TEST(Slots, StrictLaunchesInTheSlotAsFarAsItGoes) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kStrict, 1, 4);
  const uint64_t frame = (kStart / rule.frame_ns + 1) * rule.frame_ns;
  EXPECT_FALSE(admit(share, rule, kMs, frame - 5 * kMs, false).granted);
  uint64_t granted = 0;
  for (uint64_t now = frame; now < frame + 20 * kMs; now += 100 * kUs) {
    granted += admit(share, rule, kMs, now, false).granted;
  }
  EXPECT_EQ(granted, 10u);
  EXPECT_TRUE(admit(share, rule, 5 * kMs, frame + 20 * kMs, false).granted)
      << "more than a quarter of a slot runs on budget alone";
}

TEST(Slots, NobodyIsFarAheadOfTheGpu) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kStrict, 1, 4);
  const uint64_t frame = (kStart / rule.frame_ns + 1) * rule.frame_ns;
  EXPECT_FALSE(admit(share, rule, kMs, frame, false, 3 * kMs).granted) << "what was left over";
  EXPECT_TRUE(admit(share, rule, kMs, frame, false, kMs).granted);
  int granted = 0;
  while (admit(share, rule, 100 * kUs, frame + kMs, false).granted) granted++;
  EXPECT_EQ(granted, 21) << "2 ms, and one more";
}

TEST(Slots, PreferRunsElsewhereWhatIsBehind) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kPrefer, 1, 4);
  const uint64_t outside = (kStart / rule.frame_ns + 1) * rule.frame_ns + 20 * kMs;
  int granted = 0;
  while (admit(share, rule, kMs, outside, false).granted) granted++;
  EXPECT_EQ(granted, 20) << "three frames' worth were saved, one is kept for the slot";
}

}  // namespace
}  // namespace softmig::policy
