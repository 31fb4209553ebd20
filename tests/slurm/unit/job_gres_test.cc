#include "cli/job_gres.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace softmig::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

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

// Slurm 22.05, shortened: one line a record.
std::string record(const std::string& head, const std::string& name, const std::string& details,
                   const std::string& comment = "") {
  return head + " JobName=" + name + " UserId=ada(59001) JobState=RUNNING Restarts=0 NodeList=n1" +
         " JOB_GRES=shard:l40s:9   " + details + " MinCPUsNode=1 Command=(null) WorkDir=/home/ada" +
         comment + " Power= TresPerNode=gres:shard:l40s:1 \n";
}

RecordStatus status_of(const std::string& records, uint64_t job, const std::string& node) {
  std::vector<GresItem> items;
  return find_gres(records, job, node, &items);
}

TEST(Record, TellsWhatTheJobHasOnTheNode) {
  const std::string text = record("JobId=16", "a",
                                  "Nodes=n[1-2] CPU_IDs=0 Mem=100 GRES=shard:l40s:1(IDX:0)   "
                                  "Nodes=n3 CPU_IDs=0 Mem=100 "
                                  "GRES=shard:l40s:2(2/4,0/4),gpu:a100:0(IDX:)");
  std::vector<GresItem> items;
  ASSERT_EQ(find_gres(text, 16, "n2", &items), RecordStatus::kOk);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].count, 1U);
  ASSERT_EQ(find_gres(text, 16, "n3", &items), RecordStatus::kOk);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].count, 2U);
  ASSERT_EQ(find_gres(record("JobId=7", "b", "Nodes=n1 CPU_IDs=0 Mem=1 GRES="), 7, "n1", &items),
            RecordStatus::kOk);
  EXPECT_THAT(items, IsEmpty());
}

TEST(Record, ThatIsNotThere) {
  const std::string text = record("JobId=20", "a", "Nodes=n1 CPU_IDs=0 Mem=1 GRES=gpu:1(IDX:0)");
  EXPECT_EQ(status_of(text, 2, "n1"), RecordStatus::kNoJob);
  EXPECT_EQ(status_of(text, 20, "n2"), RecordStatus::kNoNode);
  EXPECT_EQ(status_of("", 20, "n1"), RecordStatus::kNoJob);
  EXPECT_EQ(status_of(record("JobId=2", "a", "Nodes=n1 GRES=shard:?(IDX:0)"), 2, "n1"),
            RecordStatus::kBadGres);
}

TEST(Record, NamesMayHaveBlanksAndBrackets) {
  for (const char* name :
       {"train (v2", "a [b", "c) d]", "", "x=y GRES=", "Nodes= z", "Nodes=n1 z"}) {
    const std::string text =
        record("JobId=3", name, "Nodes=n1 CPU_IDs=0 Mem=1 GRES=shard:l40s:1(IDX:0)");
    EXPECT_EQ(status_of(text, 3, "n1"), RecordStatus::kOk) << name;
  }
}

TEST(Record, CannotBeForged) {
  const std::string details = "Nodes=n1 CPU_IDs=0 Mem=1 GRES=shard:l40s:1(IDX:0)";
  for (const char* forged :
       {"a Nodes=n1 GRES=shard:l40s:4(IDX:0)", "a Nodes=n1 GRES=(null)",
        "a Nodes=n1 GRES=", "a\nJobId=3 Nodes=n1 GRES=gpu:l40s:1(IDX:0)",
        "a Nodes=n[1-2] GRES=gpu:1\nJobId=99 JobName=b", "a ( Nodes=n1 GRES=gpu:1",
        "a Nodes=n1 GRES=gpu:1 UserId=x MinCPUsNode=1 \nJobId=9"}) {
    EXPECT_EQ(status_of(record("JobId=3", forged, details), 3, "n1"), RecordStatus::kForged)
        << forged;
    EXPECT_EQ(
        status_of(record("JobId=3", "a", details, std::string(" Comment=") + forged), 3, "n1"),
        RecordStatus::kForged)
        << forged;
  }
  // Another job's record cannot be made to come first.
  EXPECT_EQ(status_of(record("JobId=3", "a\nJobId=4 JobName=b", details), 4, "n1"),
            RecordStatus::kNoJob);
}

TEST(Record, OfAnArrayIsNarrowedDownWhereTasksDiffer) {
  const std::string same = "Nodes=n1 CPU_IDs=0 Mem=1 GRES=shard:l40s:1(IDX:0)";
  const std::string other = "Nodes=n1 CPU_IDs=0 Mem=1 GRES=shard:l40s:1(IDX:1)";
  const std::string first = record("JobId=16 ArrayJobId=16 ArrayTaskId=4", "a", same);
  EXPECT_EQ(status_of(first + record("JobId=20 ArrayJobId=16 ArrayTaskId=3", "a", same), 16, "n1"),
            RecordStatus::kOk);
  const std::string both = record("JobId=20 ArrayJobId=16 ArrayTaskId=3", "a", other) + first;
  EXPECT_EQ(status_of(both, 16, "n1"), RecordStatus::kForged);
  EXPECT_EQ(single_name(both, 16), "16_4");
  EXPECT_EQ(single_name(both, 20), "16_3");
  EXPECT_EQ(single_name(record("JobId=5 HetJobId=5 HetJobOffset=0", "a", same), 5), "5+0");
  EXPECT_EQ(single_name(record("JobId=3", "a", same), 3), "");
  EXPECT_EQ(single_name(record("JobId=3", "JobId=3 ArrayJobId=x ArrayTaskId=$(a)", same), 3), "");
}

std::string row(const std::string& id, const std::string& array, const std::string& per_node,
                const std::string& per_job = "N/A") {
  return fmt::format("{:16}{:16}{:16}{:16}{:64}{:64}{:64}{:64}\n", id, array, "59001", "2",
                     per_node, per_job, "N/A", "N/A");
}

TEST(Request, IsReadFromColumns) {
  const auto requests =
      parse_requests(row("7", "4", "gres:shard:l40s:1") + row("4", "4", "gres:shard:l40s:1"));
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].job_id, 7U);
  EXPECT_EQ(requests[0].array_id, 4U);
  EXPECT_EQ(requests[0].uid, 59001U);
  EXPECT_EQ(requests[0].restarts, 2U);
  EXPECT_EQ(requests[0].tres, "gres:shard:l40s:1 N/A N/A N/A");
  const auto items = items_of_request(requests[0], "1");
  ASSERT_TRUE(items);
  EXPECT_EQ(items->at(0).name, "shard");
  EXPECT_EQ(items->at(0).type, "l40s");
  EXPECT_EQ(items->at(0).count, 1U);
  EXPECT_THAT(items->at(0).index, ElementsAre(1));
}

TEST(Request, ThatMakesNoSenseIsNone) {
  const std::string good = row("7", "7", "gres:shard:l40s:1");
  for (const std::string& text : {good + good, good + "7\n", good + row("x", "7", "gres:gpu:1"),
                                  good.substr(1), row("7", "7", "gres:shard:l40s:1\n7"),
                                  good + "JOBID\n", std::string("7 7 0 gres:gpu:1\n")}) {
    EXPECT_THAT(parse_requests(text), IsEmpty()) << text;
  }
}

TEST(Request, ThatDoesNotTellEverythingLeavesItToTheRecord) {
  const auto of = [](const std::string& per_node, const std::string& per_job = "N/A") {
    return parse_requests(row("7", "7", per_node, per_job)).at(0);
  };
  for (const char* text :
       {"gres:shard:1", "gres:shard:l40s:1,gres:shard:a100:1", "gres:shard:l40s:0", "N/A",
        "gres:shard:l40s:1k", "gres/shard:l40s:1", "gres:shard:l40s:1(S:0)", "gres:nic:1", "x"}) {
    EXPECT_FALSE(items_of_request(of(text), "0")) << text;
  }
  EXPECT_FALSE(items_of_request(of("gres:shard:l40s:1"), "0,1"));
  EXPECT_FALSE(items_of_request(of("gres:shard:l40s:1"), ""));
  EXPECT_FALSE(items_of_request(of("gres:shard:l40s:1", "gres:shard:l40s:1"), "0"));
  EXPECT_FALSE(items_of_request(of("N/A", std::string(64, 'x')), ""));
  EXPECT_FALSE(items_of_request(of("N/A", "gres:shard:1"), ""));
}

TEST(Request, OfAJobWithoutShards) {
  const auto of = [](const std::string& per_node) {
    return parse_requests(row("7", "7", per_node)).at(0);
  };
  EXPECT_THAT(*items_of_request(of("N/A"), ""), IsEmpty());
  EXPECT_EQ(items_of_request(of("gres:gpu:l40s:2"), "0,1")->at(0).name, "gpu");
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
