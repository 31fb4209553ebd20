// The account of GPU time with invented clocks (policy/share.h).
#include "policy/share.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <span>
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
      uint64_t now = kStart, counted = 0;
      const uint64_t from = kStart + kSecond, to = from + 20 * kSecond;
      bool waited = false;
      while (now < to) {
        const Admission admission = admit(share, rule, kernel, now, waited);
        waited = !admission.granted;
        if (admission.granted) {
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
  EXPECT_FALSE(slot_at(rule, frame + 20 * kMs).own);
  EXPECT_EQ(slot_at(rule, frame + 25 * kMs).until_ns, 25 * kMs - 60 * kUs);
}

TEST(Slots, NeighboursAreOne) {
  const ShareRule rule = quarter(ShareMode::kStrict, 0b1001, 4);  // 30..40 and 0..10
  const uint64_t frame = kStart / rule.frame_ns * rule.frame_ns;
  EXPECT_EQ(slot_at(rule, frame + 5 * kMs).left_ns, 5 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 35 * kMs).left_ns, 15 * kMs);
  EXPECT_EQ(slot_at(rule, frame + 15 * kMs).until_ns, 15 * kMs - 60 * kUs);
}

TEST(Slots, AllOrNoneAreNoSlots) {
  EXPECT_FALSE(quarter(ShareMode::kStrict, 0b1111, 4).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kStrict, 0, 4).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kStrict, 1, 1).has_slots());
  EXPECT_FALSE(quarter(ShareMode::kBudget, 1, 4).has_slots());
  EXPECT_TRUE(quarter(ShareMode::kFill, 1, 4).has_slots());
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
    if (place.own) {
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
}

TEST(Slots, LongKernelsComeOutEvenOverFrames) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kStrict, 1, 4);  // 10 of 40 ms
  const uint64_t frame = (kStart / rule.frame_ns + 1) * rule.frame_ns;
  int granted = 0;
  for (uint64_t now = frame; now < frame + 100 * rule.frame_ns; now += 100 * kUs) {
    if (!admit(share, rule, 7 * kMs, now, false).granted) continue;
    EXPECT_LT((now + 60 * kUs) % rule.frame_ns, 10 * kMs) << "begins in the slot";
    granted++;
  }
  EXPECT_NEAR(granted, 100 * 10 / 7, 3);
}

TEST(Slots, NobodyIsFarAheadOfTheGpu) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kStrict, 1, 4);
  const uint64_t frame = (kStart / rule.frame_ns + 1) * rule.frame_ns;
  EXPECT_FALSE(admit(share, rule, kMs, frame, false, frame + 3 * kMs).granted) << "left over";
  EXPECT_TRUE(admit(share, rule, kMs, frame, false, frame + kMs).granted);
  int granted = 0;
  while (admit(share, rule, 100 * kUs, frame + kMs, false).granted) granted++;
  EXPECT_EQ(granted, 21) << "2 ms, and one more";
}

TEST(Slots, WhoHadToWaitLaunchesManyAtATime) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kStrict, 1, 4);
  const uint64_t frame = (kStart / rule.frame_ns + 1) * rule.frame_ns;
  while (admit(share, rule, 20 * kUs, frame, false).granted) {
  }
  EXPECT_FALSE(admit(share, rule, 20 * kUs, frame + 500 * kUs, true).granted);
  int granted = 0;
  while (admit(share, rule, 20 * kUs, frame + 1100 * kUs, granted == 0).granted) granted++;
  EXPECT_GT(granted, 50);
}

// As a process notes it: two frames at a time.
Demand demand(uint64_t gpu, uint64_t free) { return {gpu, free, true}; }

TEST(Slots, ALightJobUsesWhatNobodyFills) {
  abi::RegionShare share = {};
  ShareRule rule = quarter(ShareMode::kFill, 1, 4);
  const uint64_t second = (kStart / rule.frame_ns + 1) * rule.frame_ns + 15 * kMs;
  EXPECT_FALSE(admit(share, rule, kMs, second, false).granted)
      << "hungry until it is seen not to be";
  note_demand(share, rule, demand(40 * kMs, 80 * kMs), second);
  EXPECT_FALSE(admit(share, rule, kMs, second, false).granted) << "the slot is another's";
  rule.open_mask = 0b0010;
  EXPECT_TRUE(admit(share, rule, kMs, second, false).granted);
  rule.mode = ShareMode::kStrict;
  EXPECT_FALSE(admit(share, rule, kMs, second, false).granted);
}

TEST(Slots, HungryAndLightAreSeenApart) {
  abi::RegionShare share = {};
  const ShareRule rule = quarter(ShareMode::kFill, 1, 4);
  uint64_t now = kStart;
  EXPECT_FALSE(is_light(share, rule, now));
  note_demand(share, rule, demand(45 * kMs, 80 * kMs), now);
  EXPECT_TRUE(is_light(share, rule, now));
  note_demand(share, rule, demand(80 * kMs, 2 * kMs), now += 80 * kMs);
  EXPECT_FALSE(is_light(share, rule, now)) << "held at the gate most of the time";
  now += kSecond;
  EXPECT_TRUE(is_light(share, rule, now)) << "but that was one window only";
  now += 64 * rule.frame_ns;
  EXPECT_FALSE(is_light(share, rule, now)) << "asked again";
  charge(share, rule, kSecond, now);
  note_demand(share, rule, {10 * kMs, 80 * kMs, false}, now);
  EXPECT_FALSE(is_light(share, rule, now)) << "others may have slowed it down";
}

// As a launch does: what is let go is counted.
bool joins(std::span<abi::RegionShare> shares, int device, const ShareRule& rule, uint64_t now) {
  const bool granted = admit_collective(shares, device, rule, kMs, now).granted;
  if (granted) count_collective(shares[static_cast<size_t>(device)], now);
  return granted;
}

TEST(Coupled, TheFirstOfARoundWaitsUntilAllHavePaid) {
  abi::RegionShare shares[3] = {};
  const ShareRule rule{.percent = 25};
  charge(shares[0], rule, kMs, kStart);
  charge(shares[1], rule, 100 * kMs, kStart);
  shares[1].coupled_ns = kStart - kMs;
  EXPECT_FALSE(joins(shares, 0, rule, kStart));
  EXPECT_TRUE(joins(shares, 2, rule, kStart + 6 * kSecond)) << "long ago";
  shares[2].coupled_ns = 0;
  const uint64_t paid = shares[1].paid_until_ns + 1;
  EXPECT_TRUE(joins(shares, 0, rule, paid));
  EXPECT_EQ(shares[0].collectives, 1u);
}

TEST(Coupled, TheOthersFollowUnlessTheyAreFarBehind) {
  abi::RegionShare shares[2] = {};
  const ShareRule rule{.percent = 25};
  EXPECT_TRUE(joins(shares, 0, rule, kStart));
  charge(shares[1], rule, 200 * kMs, kStart);
  EXPECT_TRUE(joins(shares, 1, rule, kStart));
  EXPECT_FALSE(joins(shares, 1, rule, kStart)) << "the next round";
  EXPECT_FALSE(joins(shares, 0, rule, kStart));
  shares[0].collectives = 100;
  charge(shares[1], rule, 3 * kSecond, kStart);
  EXPECT_FALSE(joins(shares, 1, rule, kStart));
}

TEST(Coupled, OrdinaryLaunchesHaveCredit) {
  abi::RegionShare share = {};
  const ShareRule rule{.percent = 25};
  charge(share, rule, 100 * kMs, kStart);
  EXPECT_FALSE(admit(share, rule, kMs, kStart, false).granted);
  EXPECT_TRUE(admit(share, rule.with_credit(false), kMs, kStart, false).granted);
  charge(share, rule, kSecond, kStart);
  const Admission admission = admit(share, rule.with_credit(false), kMs, kStart, false);
  EXPECT_FALSE(admission.granted);
  EXPECT_GT(admission.wait_ns, 0u);
  EXPECT_FALSE(is_coupled(share, kStart));
  share.coupled_ns = kStart;
  EXPECT_TRUE(is_coupled(share, kStart + kSecond));
}

}  // namespace
}  // namespace softmig::policy
