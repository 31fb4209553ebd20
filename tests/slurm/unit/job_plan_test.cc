#include "cli/job_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "cli/failure.h"
#include "policy/settings.h"

namespace softmig::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<NodeGpu> kTwoKinds = {{0, "GPU-a", "L40S", 46068 * base::kMiB},
                                        {1, "GPU-b", "A100", 81920 * base::kMiB}};
const std::vector<NodeGpu> kAlike = {{0, "GPU-a", "L40S", 46068 * base::kMiB},
                                     {3, "GPU-b", "L40S", 46068 * base::kMiB}};

std::string why(const std::vector<GresItem>& items, const std::vector<int>& order,
                const std::vector<NodeGpu>& gpus, const SiteConfig& site) {
  try {
    plan_slices(items, order, gpus, site);
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "no failure";
}

TEST(Plan, AQuarterOfThatGpu) {
  const auto slices = plan_slices(*parse_gres("shard:l40s:1(IDX:1)"), {1, 0}, kTwoKinds, {});
  ASSERT_EQ(slices.size(), 1U);
  EXPECT_EQ(slices[0].uuid, "GPU-a");
  EXPECT_EQ(slices[0].bytes, 11517 * base::kMiB);
  EXPECT_EQ(slices[0].percent, 25U);
  EXPECT_EQ(plan_slices(*parse_gres("shard:a100:2(IDX:0)"), {1, 0}, kTwoKinds, {})[0].bytes,
            40960 * base::kMiB);
}

TEST(Plan, TheShardsOfTheType) {
  std::vector<SiteProblem> problems;
  const SiteConfig site = parse_site_config(
      "NUM_SHARDS_PER_GPU=2\nNUM_SHARDS_PER_GPU[L40S]=8\nMEMORY_RESERVE[l40s]=68M\n", "",
      &problems);
  EXPECT_THAT(problems, IsEmpty());
  const auto slices =
      plan_slices(*parse_gres("shard:l40s:3(IDX:0),shard:a100:1(IDX:1)"), {0, 1}, kTwoKinds, site);
  ASSERT_EQ(slices.size(), 2U);
  EXPECT_EQ(slices[0].bytes, 46000 * base::kMiB / 8 * 3 / base::kMiB * base::kMiB);
  EXPECT_EQ(slices[0].percent, 37U);
  EXPECT_EQ(slices[1].bytes, 40960 * base::kMiB);
}

TEST(Plan, WhatSlurmCountsItselfWins) {
  const auto slices = plan_slices(*parse_gres("shard:l40s:3(1/8,2/8)"), {}, kAlike, {});
  ASSERT_EQ(slices.size(), 2U);
  EXPECT_EQ(slices[0].percent, 12U);
  EXPECT_EQ(slices[1].percent, 25U);
}

TEST(Plan, NoShardsNoSlices) {
  EXPECT_THAT(plan_slices(*parse_gres("gpu:l40s:2(IDX:0-1),nic:1"), {}, kAlike, {}), IsEmpty());
}

TEST(Plan, AlikeGpusNeedNoOrder) {
  EXPECT_EQ(plan_slices(*parse_gres("shard:1(IDX:1)"), {}, kAlike, {})[0].uuid, "GPU-b");
  EXPECT_THAT(why(*parse_gres("shard:1(IDX:1)"), {}, kTwoKinds, {}), HasSubstr("slurmd -G"));
}

TEST(Plan, WhatCannotBe) {
  EXPECT_THAT(why(*parse_gres("shard:l40s:5(IDX:0)"), {}, kAlike, {}),
              HasSubstr("5 shards of a GPU that has 4"));
  EXPECT_THAT(why(*parse_gres("shard:l40s:1"), {}, kAlike, {}), HasSubstr("on which GPU"));
  EXPECT_THAT(why(*parse_gres("shard:l40s:2(IDX:0-1)"), {}, kAlike, {}), HasSubstr("how many"));
  EXPECT_THAT(why(*parse_gres("shard:l40s:1(IDX:2)"), {}, kAlike, {}), HasSubstr("number 2"));
  EXPECT_THAT(why(*parse_gres("shard:l40s:1(IDX:1)"), {0, 7}, kAlike, {}), HasSubstr("nvidia7"));
  std::vector<SiteProblem> problems;
  const SiteConfig greedy = parse_site_config("MEMORY_RESERVE=99G\n", "", &problems);
  EXPECT_THAT(why(*parse_gres("shard:1(IDX:0)"), {}, kAlike, greedy), HasSubstr("leaves nothing"));
}

TEST(Text, IsAConfigThatTheLibraryReads) {
  std::vector<SiteProblem> problems;
  const SiteConfig site = parse_site_config("ACTIVE_OOM_KILLER=1\n", "", &problems);
  EXPECT_EQ(config_text({{"GPU-a", 1, 4, 100 * base::kMiB, 25}}, 5001, "0/4", site),
            "SOFTMIG_UID=5001\nSOFTMIG_GPUS=GPU-a\nCUDA_DEVICE_MEMORY_LIMIT=100M\n"
            "CUDA_DEVICE_SM_LIMIT=25\nSOFTMIG_SLOTS=0/4\nACTIVE_OOM_KILLER=1\n");
  const std::string two = config_text(
      {{"GPU-a", 1, 4, 100 * base::kMiB, 25}, {"GPU-b", 1, 2, 50 * base::kMiB, 50}}, 1, "", {});
  EXPECT_THAT(two, HasSubstr("CUDA_DEVICE_MEMORY_LIMIT=50M\nCUDA_DEVICE_SM_LIMIT=25\n"));
  EXPECT_THAT(two, HasSubstr("CUDA_DEVICE_MEMORY_LIMIT_0=100M\nCUDA_DEVICE_SM_LIMIT_0=25\n"));
  EXPECT_THAT(two, HasSubstr("CUDA_DEVICE_MEMORY_LIMIT_1=50M\nCUDA_DEVICE_SM_LIMIT_1=50\n"));
}

TEST(Text, AClosedConfigClosesAndSaysWhy) {
  const std::string text = closed_config_text(5001, "no\nGPU");
  EXPECT_EQ(text, "SOFTMIG_UID=5001\nCUDA_DEVICE_MEMORY_LIMIT=closed: no\\x0aGPU\n");
  policy::Settings settings;
  EXPECT_EQ(policy::parse_line(text.substr(text.find('\n') + 1), &settings),
            policy::ParseStatus::kBadValue);
}

}  // namespace
}  // namespace softmig::cli
