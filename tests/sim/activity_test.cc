// The record of when kernels ran.
#include "state/activity.h"

#include <gtest/gtest.h>

namespace softmig::sim {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST(ActivityTest, WhatOverlapsCountsOnce) {
  Activity activity{};
  add_activity(&activity, 1000 * kMs, 1100 * kMs);
  add_activity(&activity, 1050 * kMs, 1150 * kMs);  // another stream
  add_activity(&activity, 1150 * kMs, 1200 * kMs);
  EXPECT_EQ(busy_within(activity, 900 * kMs, 1300 * kMs), 200 * kMs);
}

TEST(ActivityTest, AStretchIsSpreadOverItsTime) {
  Activity activity{};
  add_activity(&activity, 950 * kMs, 1350 * kMs);
  add_activity(&activity, 2000 * kMs, 2100 * kMs);
  EXPECT_EQ(busy_within(activity, 0, 900 * kMs), 0u);
  EXPECT_EQ(busy_within(activity, 1000 * kMs, 1200 * kMs), 200 * kMs);
  EXPECT_EQ(busy_within(activity, 1400 * kMs, 2000 * kMs), 0u);
  EXPECT_EQ(busy_within(activity, 900 * kMs, 2100 * kMs), 500 * kMs);
}

TEST(ActivityTest, AKernelThatEndsLaterIsBusyUntilThen) {
  Activity activity{};
  add_activity(&activity, 1000 * kMs, 60000 * kMs);
  EXPECT_EQ(busy_within(activity, 30000 * kMs, 30200 * kMs), 200 * kMs);
  add_activity(&activity, 90000 * kMs, 90001 * kMs);
  EXPECT_EQ(busy_within(activity, 59000 * kMs, 59200 * kMs), 200 * kMs);
}

}  // namespace
}  // namespace softmig::sim
