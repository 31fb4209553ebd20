#include "cli/advice.h"

#include <gtest/gtest.h>

#include "base/bytes.h"

namespace softmig::cli {
namespace {

using base::kGiB;
constexpr uint64_t kHour = 3'600'000'000'000;

// Two shards of eight of an L40S: 12 GiB, a quarter of the time; an hour.
DeviceRecord quarter() {
  DeviceRecord device;
  device.name = "NVIDIA L40S";
  device.memory_limit = 12 * kGiB;
  device.sm_limit = 25;
  device.shards = 2;
  device.of = 8;
  device.peak = 51 * kGiB / 10;
  device.compute = {.gpu_ns = kHour / 20, .waited_ns = 0, .launches = 10, .graph_launches = 0};
  return device;
}

std::string of_job(const DeviceRecord& device, uint64_t site_shards = 4) {
  return advice(device, true, kHour, site_shards);
}

TEST(Advice, LessWouldDo) {
  EXPECT_EQ(of_job(quarter()), "peaked at 5.1 GiB of 12.0 GiB and never waited: ask for l40s.8");
}

TEST(Advice, TheSliceFitsIfTheSmallerOneHasNoRoom) {
  DeviceRecord device = quarter();
  device.peak = 59 * kGiB / 10;  // of 6, without a margin
  EXPECT_EQ(of_job(device), "peaked at 5.9 GiB of 12.0 GiB and never waited: the slice fits");
}

TEST(Advice, TheSliceFitsIfTheSmallerOneHasTooLittleTime) {
  DeviceRecord device = quarter();
  device.compute.gpu_ns = kHour / 10;
  EXPECT_TRUE(of_job(device).ends_with("the slice fits"));
}

TEST(Advice, WhereShardsAreLargeThereIsNothingSmaller) {
  DeviceRecord device = quarter();
  device.shards = 1;
  device.of = 4;
  EXPECT_TRUE(of_job(device).ends_with("the slice fits"));
}

TEST(Advice, OnlySlicesThatCanBeAskedFor) {
  DeviceRecord device = quarter();
  device.shards = 4;  // of 8: three shards are no slice of their own
  device.memory_limit = 24 * kGiB;
  device.peak = 13 * kGiB;
  EXPECT_TRUE(of_job(device).ends_with("the slice fits"));
  device.peak = 11 * kGiB;
  EXPECT_TRUE(of_job(device).ends_with("ask for l40s.4"));
}

TEST(Advice, RefusedMemoryAsksForMore) {
  DeviceRecord device = quarter();
  device.peak = 12 * kGiB;
  device.refusals = 3;
  EXPECT_EQ(of_job(device),
            "peaked at 12.0 GiB of 12.0 GiB, was refused memory 3 times and never waited: ask for "
            "l40s.2");
}

TEST(Advice, ALongWaitAsksForMore) {
  DeviceRecord device = quarter();
  device.compute.waited_ns = kHour / 4;
  EXPECT_EQ(of_job(device),
            "peaked at 5.1 GiB of 12.0 GiB and waited 15 min 0 s for GPU time: l40s.2 would be "
            "faster");
  device.shards = 4;
  EXPECT_TRUE(of_job(device).ends_with("gpu:l40s:1, the whole GPU would be faster"));
}

TEST(Advice, AShortWaitIsNone) {
  DeviceRecord device = quarter();
  device.compute.waited_ns = kHour / 100;
  EXPECT_TRUE(of_job(device).ends_with("and hardly waited: ask for l40s.8"));
}

TEST(Advice, AJobThatUsedNothing) {
  DeviceRecord device = quarter();
  device.peak = 0;
  device.compute = {};
  EXPECT_EQ(of_job(device), "never used the GPU: ask for none");
}

TEST(Advice, WithoutSlotsTheShareOfTimeAndTheSiteTell) {
  DeviceRecord device = quarter();
  device.shards = device.of = 0;
  EXPECT_TRUE(of_job(device, 8).ends_with("ask for l40s.8"));
  EXPECT_TRUE(of_job(device, 4).ends_with("the slice fits"));
  EXPECT_TRUE(of_job(device, 0).ends_with("the slice fits"));
}

TEST(Advice, ForgedFiguresDoNoHarm) {
  DeviceRecord device = quarter();
  device.shards = UINT64_MAX;
  device.of = 3;
  device.peak = UINT64_MAX;
  device.compute = {UINT64_MAX, UINT64_MAX, UINT64_MAX, 1};
  EXPECT_FALSE(advice(device, true, 0, 4).empty());
  EXPECT_FALSE(advice(device, false, 0, 4).empty());
}

TEST(Advice, SlicesOfRunAreToldInMemory) {
  DeviceRecord device = quarter();
  EXPECT_EQ(advice(device, false, kHour, 4),
            "peaked at 5.1 GiB of 12.0 GiB and never waited: --memory 6144M would do");
  device.peak = 115 * kGiB / 10;
  EXPECT_TRUE(advice(device, false, kHour, 4).ends_with("the slice fits"));
}

TEST(TypeOf, NamesOfCards) {
  EXPECT_EQ(type_of("NVIDIA L40S"), "l40s");
  EXPECT_EQ(type_of("NVIDIA A100-SXM4-80GB"), "a100");
  EXPECT_EQ(type_of("NVIDIA H100 80GB HBM3"), "h100");
  EXPECT_EQ(type_of("Tesla V100-SXM2-16GB"), "v100");
  EXPECT_EQ(type_of("NVIDIA RTX A6000"), "a6000");
  EXPECT_EQ(type_of("NVIDIA"), "");
  EXPECT_EQ(type_of(""), "");
}

}  // namespace
}  // namespace softmig::cli
