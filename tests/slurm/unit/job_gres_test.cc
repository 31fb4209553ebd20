#include "cli/job_gres.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace softmig::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr const char* kRecords =
    "JobId=20 ArrayJobId=16 ArrayTaskId=3 JobName=a NodeList=n1 JOB_GRES=shard:l40s:9   Nodes=n1 "
    "CPU_IDs=0 Mem=100 GRES=shard:l40s:3(IDX:1) MinCPUsNode=1 \n"
    "JobId=16 ArrayJobId=16 JobName=GRES=gpu:9 Nodes=n9 NodeList=n[1-3] JOB_GRES=shard:l40s:4   "
    "Nodes=n[1-2] CPU_IDs=0 Mem=100 GRES=shard:l40s:1(IDX:0)   Nodes=n3 CPU_IDs=0 Mem=100 "
    "GRES=shard:l40s:2(2/4,0/4),gpu:a100:0(IDX:) MinCPUsNode=1 \n"
    "JobId=7 JobName=b JOB_GRES=(null)   Nodes=n1 CPU_IDs=0 Mem=100 GRES= MinCPUsNode=1 \n";

TEST(Hosts, Expand) {
  EXPECT_THAT(expand_hosts("n1"), ElementsAre("n1"));
  EXPECT_THAT(expand_hosts("n[1-3,07],m2"), ElementsAre("n1", "n2", "n3", "n07", "m2"));
  EXPECT_THAT(expand_hosts("r[1-2]n[09-10]x"), ElementsAre("r1n09x", "r1n10x", "r2n09x", "r2n10x"));
  EXPECT_THAT(expand_hosts("/dev/nvidia[0-1]"), ElementsAre("/dev/nvidia0", "/dev/nvidia1"));
}

TEST(Hosts, NonsenseIsNoHost) {
  for (const char* text : {"", "n[", "n[1", "n[a-b]", "n[3-1]", "n[0-99999999999]", "n[1-]"}) {
    EXPECT_THAT(expand_hosts(text), IsEmpty()) << text;
  }
}

TEST(Gres, OldSpelling) {
  const auto items = parse_gres("shard:l40s:1(IDX:0),gpu:a100-sxm4:2(IDX:0-1,3),nic:3");
  ASSERT_TRUE(items);
  ASSERT_EQ(items->size(), 3U);
  EXPECT_EQ(items->at(0).type, "l40s");
  EXPECT_EQ(items->at(0).count, 1U);
  EXPECT_THAT(items->at(1).index, ElementsAre(0, 1, 3));
  EXPECT_EQ(items->at(2).type, "");
  EXPECT_EQ(items->at(2).count, 3U);
}

TEST(Gres, NewSpelling) {
  const auto items = parse_gres("shard:l40s:3(0/4,1/4,2/8)");
  ASSERT_TRUE(items);
  EXPECT_THAT(items->at(0).index, ElementsAre(1, 2));
  EXPECT_THAT(items->at(0).here, ElementsAre(1, 2));
  EXPECT_THAT(items->at(0).available, ElementsAre(4, 8));
}

TEST(Gres, ZerosAndNothing) {
  EXPECT_THAT(*parse_gres("shard:a100:0(IDX:),gpu:0"), IsEmpty());
  EXPECT_THAT(*parse_gres(""), IsEmpty());
  EXPECT_THAT(*parse_gres("(null)"), IsEmpty());
}

TEST(Gres, NonsenseIsRefused) {
  for (const char* text : {"shard:l40s:x", "shard:1(IDX:a)", "shard:1(IDX:0", "shard:1(1/x)",
                           "shard:1(IDX:3-1)", "shard:1(IDX:99999)", "shard:-1"}) {
    EXPECT_FALSE(parse_gres(text)) << text;
  }
}

TEST(Record, IsThatOfTheJobAndTheNode) {
  std::vector<GresItem> items;
  ASSERT_EQ(find_gres(kRecords, 16, "n2", &items), RecordStatus::kOk);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].count, 1U);
  ASSERT_EQ(find_gres(kRecords, 16, "n3", &items), RecordStatus::kOk);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].count, 2U);
  ASSERT_EQ(find_gres(kRecords, 20, "n1", &items), RecordStatus::kOk);
  EXPECT_EQ(items[0].count, 3U);
  ASSERT_EQ(find_gres(kRecords, 7, "n1", &items), RecordStatus::kOk);
  EXPECT_THAT(items, IsEmpty());
}

TEST(Record, ThatIsNotThere) {
  std::vector<GresItem> items;
  EXPECT_EQ(find_gres(kRecords, 1, "n1", &items), RecordStatus::kNoJob);
  EXPECT_EQ(find_gres(kRecords, 2, "n1", &items), RecordStatus::kNoJob);
  EXPECT_EQ(find_gres(kRecords, 20, "n2", &items), RecordStatus::kNoNode);
  EXPECT_EQ(find_gres("", 20, "n2", &items), RecordStatus::kNoJob);
  EXPECT_EQ(find_gres("JobId=2 Nodes=n1 GRES=shard:?(IDX:0)\n", 2, "n1", &items),
            RecordStatus::kBadGres);
}

TEST(Slurmd, OrdersByType) {
  EXPECT_THAT(parse_slurmd_gres(
                  "slurmd: Gres Name=shard Type=a100-sxm4 Count=4 ID=1 File=/dev/nvidia2 (null)\n"
                  "slurmd: Gres Name=gpu Type=a100-sxm4 Count=1 ID=7 File=/dev/nvidia2 (null)\n"
                  "slurmd: Gres Name=gpu Type=l40s Count=2 ID=7 File=/dev/nvidia[0-1] (null)\n"),
              ElementsAre(2, 0, 1));
  EXPECT_THAT(parse_slurmd_gres(""), IsEmpty());
  EXPECT_THAT(parse_slurmd_gres("Gres Name=gpu Type=x Count=2\n"), IsEmpty());
}

}  // namespace
}  // namespace softmig::cli
