#include "cli/job_query.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/failure.h"

namespace softmig::cli {
namespace {

// squeue and scontrol that say what a file holds, and count how often they were asked.
class Query : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-query-XXXXXX";
    folder_ = mkdtemp(name);
    for (const char* program : {"squeue", "scontrol"}) {
      const std::string path = folder_ + "/" + program;
      // A shell without anything but itself: PATH is this folder.
      std::ofstream(path)
          << "#!/bin/sh\nfor last; do :; done\n"
          << "while [ $# -gt 0 ]; do case $1 in --jobs=*) last=${1#--jobs=};; esac\n"
          << "shift; done\necho $last >>" << folder_ << "/asked." << program << "\n[ -e " << folder_
          << "/" << program << ".$last ] || exit 1\n"
          << "while IFS= read -r line; do printf '%s\\n' \"$line\"; done <" << folder_ << "/"
          << program << ".$last\n";
      chmod(path.c_str(), 0755);
    }
    setenv("PATH", folder_.c_str(), 1);
    state_ = NodeState(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void says(const std::string& program, const std::string& of, const std::string& text) {
    std::ofstream(folder_ + "/" + program + "." + of) << text;
  }
  std::string asked(const std::string& program) {
    std::ifstream file(folder_ + "/asked." + program);
    std::string all, line;
    while (std::getline(file, line)) all += line + " ";
    return all;
  }
  static std::string row(uint64_t id, uint64_t array, uint32_t uid, uint64_t restarts,
                         const std::string& tres = "gres:shard:l40s:1") {
    return fmt::format("{:<16}{:<16}{:<16}{:<16}{:64}{:64}{:64}{:64}\n", id, array, uid, restarts,
                       tres, "N/A", "N/A", "N/A");
  }
  static PrologJob job(uint64_t id, uint32_t uid = 7, uint64_t restarts = 0) {
    return {id, uid, uid, restarts, "n1", "0"};
  }
  bool finds(const PrologJob& one) { return items_by_request(state_, one).has_value(); }

  std::string folder_;
  NodeState state_;
};

TEST_F(Query, OneAnswerIsForAllOfAnArray) {
  says("squeue", "21", row(21, 20, 7, 0));
  says("squeue", "20",
       row(20, 20, 7, 0) + row(21, 20, 7, 0) + row(22, 20, 7, 0) + row(23, 20, 7, 0));
  for (const uint64_t id : {21, 22, 23, 20, 21}) EXPECT_TRUE(finds(job(id))) << id;
  EXPECT_EQ(asked("squeue"), "21 20 ");
}

TEST_F(Query, AnAnswerIsForThisRunOfThisUsersJob) {
  says("squeue", "5", row(5, 5, 7, 0));
  ASSERT_TRUE(finds(job(5)));
  says("squeue", "5", row(5, 5, 7, 1, "gres:shard:l40s:2"));
  const auto again = items_by_request(state_, job(5, 7, 1));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->at(0).count, 2U);
  EXPECT_FALSE(finds(job(5, 8, 1)));
  EXPECT_EQ(asked("squeue"), "5 5 5 ");
}

TEST_F(Query, AnAnswerIsForgottenSoon) {
  says("squeue", "5", row(5, 5, 7, 0));
  ASSERT_TRUE(finds(job(5)));
  const timespec long_ago[2] = {{1, 0}, {1, 0}};
  utimensat(AT_FDCWD, state_.path("requests").c_str(), long_ago, 0);
  ASSERT_TRUE(finds(job(5)));
  EXPECT_EQ(asked("squeue"), "5 5 ");
}

TEST_F(Query, JobsBetweenTasksEndTheAskingForArrays) {
  says("squeue", "21", row(21, 20, 7, 0));
  says("squeue", "20", row(21, 20, 7, 0) + row(22, 20, 7, 0));
  for (const char* id : {"30", "31", "32"}) says("squeue", id, row(std::stoul(id), 29, 7, 0));
  for (const uint64_t id : {21, 30, 31, 32}) EXPECT_TRUE(finds(job(id))) << id;
  EXPECT_EQ(asked("squeue"), "21 20 30 31 32 ");
}

TEST_F(Query, AnotherUsersJobDoesNotAskForTheArray) {
  says("squeue", "21", row(21, 20, 7, 0));
  says("squeue", "40", row(40, 40, 8, 0));
  ASSERT_TRUE(finds(job(21)));
  EXPECT_TRUE(finds(job(40, 8)));
  EXPECT_EQ(asked("squeue"), "21 40 ");
}

TEST_F(Query, ASqueueThatFailsTellsNothing) { EXPECT_FALSE(finds(job(5))); }

TEST_F(Query, ARecordIsNarrowedDownAndChecked) {
  const std::string begin = "JobId=16 ArrayJobId=16 ArrayTaskId=4 JobName=a";
  const std::string one = begin + "   Nodes=n1 CPU_IDs=0 Mem=1 GRES=shard:l40s:1(IDX:0) X=1\n";
  says("scontrol", "16",
       one +
           "JobId=20 ArrayJobId=16 ArrayTaskId=3 JobName=a   Nodes=n1 CPU_IDs=1 "
           "Mem=1 GRES=shard:l40s:1(IDX:1) X=1\n");
  says("scontrol", "16_4", one);
  const auto items = items_by_record(job(16));
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].index, std::vector<int>{0});
  EXPECT_EQ(asked("scontrol"), "16 16_4 ");
  says("scontrol", "16_4", begin + " Nodes=n1 GRES=gpu:1" + one.substr(begin.size()));
  EXPECT_THROW(items_by_record(job(16)), Failure);
  // The record of another task, whose number was forged.
  says("scontrol", "16_4", "JobId=20 ArrayJobId=16 ArrayTaskId=4 JobName=a Nodes=n1 GRES=gpu:1\n");
  EXPECT_THROW(items_by_record(job(16)), Failure);
}

TEST_F(Query, AControllerThatDoesNotAnswerIsAskedTwice) {
  EXPECT_THROW(items_by_record(job(5)), Failure);
  EXPECT_EQ(asked("scontrol"), "5 5 ");
}

}  // namespace
}  // namespace softmig::cli
