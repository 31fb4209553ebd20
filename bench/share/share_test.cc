// The arithmetic of the share programs.
#include <gtest/gtest.h>

#include "share/costs.h"
#include "share/kernel.h"
#include "share/loads.h"
#include "share/series.h"

namespace softmig::bench {
namespace {

constexpr int64_t kBucket = Series::kBucketNs;

uint32_t stepped(uint32_t x, uint64_t steps) {
  for (uint64_t i = 0; i < steps; ++i) x = x * kFactor + kAddend;
  return x;
}

TEST(Kernel, ResultIsThatOfTheStepsDoneOneByOne) {
  for (uint64_t steps : {0, 1, 2, 3, 7, 64, 1000, 12345}) {
    uint64_t sum = 0;
    for (uint32_t block = 0; block < 264; ++block) sum += stepped(block, steps);
    EXPECT_EQ(work_result(steps, 264), sum) << steps;
  }
}

TEST(Series, WorkIsSpreadOverItsInterval) {
  Series series(1000, 0, 4);
  series.add({1000 + kBucket / 2, 1000 + 5 * kBucket / 2}, static_cast<double>(kBucket));
  EXPECT_EQ(series.text(), "25.0 50.0 25.0 0.0");
  EXPECT_NEAR(series.percent(), 25, 1e-9);
}

TEST(Series, WhatLiesOutsideIsLeftOut) {
  Series series(5 * kBucket, 0, 2);
  series.add({0, kBucket}, 1e8);                      // before
  series.add({4 * kBucket, 6 * kBucket}, 1e8);        // half of it
  series.add({6 * kBucket, 26 * kBucket}, 20 * 1e8);  // one bucket of it
  series.add({7 * kBucket, 8 * kBucket}, 1e8);        // after
  EXPECT_EQ(series.text(), "50.0 100.0");
}

TEST(Series, SkippedBucketsCountForNoFigure) {
  Series series(0, 5, 20);
  series.add({0, 5 * kBucket}, 5 * static_cast<double>(kBucket));
  series.add({5 * kBucket, 15 * kBucket}, 2 * static_cast<double>(kBucket));
  series.add({15 * kBucket, 25 * kBucket}, 4 * static_cast<double>(kBucket));
  EXPECT_NEAR(series.percent(), 30, 1e-9);
  const std::vector<double> windows = series.windows();
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_NEAR(windows[0], 20, 1e-9);
  EXPECT_NEAR(windows[1], 40, 1e-9);
  EXPECT_NEAR(deviation(windows), 10, 1e-9);
}

TEST(Intervals, OverlapCountsOnce) {
  const std::vector<Interval> all = merged({{30, 40}, {0, 10}, {5, 20}, {20, 25}, {32, 35}});
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].begin_ns, 0);
  EXPECT_EQ(all[0].end_ns, 25);
  EXPECT_EQ(all[1].begin_ns, 30);
  EXPECT_EQ(all[1].end_ns, 40);
  EXPECT_TRUE(merged({}).empty());
}

TEST(Figures, Percentile) {
  std::vector<double> values;
  EXPECT_EQ(percentile(&values, 0.5), 0);
  for (int i = 100; i >= 0; --i) values.push_back(i);
  EXPECT_EQ(percentile(&values, 0.5), 50);
  EXPECT_EQ(percentile(&values, 0.99), 99);
  EXPECT_EQ(percentile(&values, 1), 100);
}

TEST(Costs, TextIsReadBack) {
  const Costs costs{{"20us", {3456, 20123.4}}, {"graph:20us", {3456, 402000}}};
  Costs read;
  ASSERT_TRUE(parse_costs(costs_text(costs), &read));
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read["20us"].iterations, 3456u);
  EXPECT_DOUBLE_EQ(read["20us"].ns, 20123.4);
  EXPECT_DOUBLE_EQ(read["graph:20us"].ns, 402000);
  for (const char* bad : {"", "20us", "20us=", "20us=5", "20us=0:5", "20us=5:0", "20us=5:-1"}) {
    read.clear();
    EXPECT_FALSE(parse_costs(bad, &read)) << bad;
  }
}

TEST(Costs, Lengths) {
  EXPECT_EQ(parse_length("20us"), 20e3);
  EXPECT_EQ(parse_length("2ms"), 2e6);
  EXPECT_EQ(parse_length("0.5s"), 5e8);
  for (const char* bad : {"", "20", "us", "20m"}) EXPECT_EQ(parse_length(bad), 0) << bad;
}

TEST(Loads, Names) {
  EXPECT_EQ(Spec::parse("back:200us")->length, "200us");
  EXPECT_EQ(Spec::parse("ptsz:2ms")->kind, Spec::Kind::kPerThread);
  EXPECT_EQ(Spec::parse("mixed")->kind, Spec::Kind::kMixed);
  for (const char* bad : {"", "back", "back:", "mixed:2ms", "forth:2ms"})
    EXPECT_FALSE(Spec::parse(bad)) << bad;
}

}  // namespace
}  // namespace softmig::bench
