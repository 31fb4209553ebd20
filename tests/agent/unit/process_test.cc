// Whose a process is, on a /proc of our own making; who is killed, on real ones.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "agent/enforcer.h"
#include "agent/process_table.h"
#include "sys/proc.h"

namespace softmig::agent {
namespace {

class FakeProc : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-proc-XXXXXX";
    root_ = mkdtemp(name);
    // A /proc of this pid namespace.
    std::filesystem::create_symlink(std::to_string(getpid()), root_ + "/self");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(uint32_t pid, const std::string& file, const std::string& text) {
    const std::filesystem::path folder = std::filesystem::path(root_) / std::to_string(pid);
    std::filesystem::create_directories(folder);
    std::ofstream(folder / file) << text;
  }
  void process(uint32_t pid, const std::string& cgroup, const std::string& uids, uint64_t start,
               const std::string& numbers = "") {
    std::ostringstream stat, status;
    stat << pid << " (a b) c) S 1 1 1 0 -1 4194304";
    for (int i = 0; i < 12; i++) stat << " 0";
    stat << " " << start << " 1 1 1 111 222 333";
    for (int i = 0; i < 30; i++) stat << " 0";
    write(pid, "stat", stat.str());
    status << "Name:\ta\nUid:\t" << uids << "\nNSpid:\t" << pid << numbers << "\nGid:\t0\t0\n";
    write(pid, "status", status.str());
    write(pid, "cgroup", cgroup);
  }
  std::string root_;
};

constexpr const char* kUser = "5001\t5001\t5001\t5001";

TEST_F(FakeProc, CgroupsOfBothVersionsNameTheJob) {
  process(10, "4:memory:/slurm_n1/uid_5001/job_122/step_0\n", kUser, 7);
  process(11, "0::/system.slice/slurmstepd.scope/job_128/step_0/user/task_0\n", kUser, 7);
  process(12, "0::/user.slice/slurm/job_9\n", kUser, 7);
  ASSERT_TRUE(read_process(root_, 10, {}).has_value());
  EXPECT_EQ(read_process(root_, 10, {})->job, 122U);
  EXPECT_EQ(read_process(root_, 11, {})->job, 128U);
  EXPECT_EQ(read_process(root_, 12, {})->job, 0U);
  EXPECT_EQ(read_process(root_, 10, {})->uid, 5001U);
  EXPECT_FALSE(read_process(root_, 13, {}).has_value());
}

TEST_F(FakeProc, TheEnvironmentCountsForItsOwnUserAlone) {
  process(10, "0::/\n", kUser, 7);
  write(10, "environ", std::string("A=1\0SLURM_JOB_ID=77\0B=2", 24));
  const JobClaim claim = [](uint64_t job, uint32_t uid) { return job == 77 && uid == 5001; };
  EXPECT_EQ(read_process(root_, 10, claim)->job, 77U);
  EXPECT_EQ(read_process(root_, 10, {})->job, 0U);
  const JobClaim other = [](uint64_t, uint32_t uid) { return uid == 5002; };
  EXPECT_EQ(read_process(root_, 10, other)->job, 0U);
  process(11, "0::/slurm/job_5\n", kUser, 7);
  write(11, "environ", std::string("SLURM_JOB_ID=77"));
  EXPECT_EQ(read_process(root_, 11, claim)->job, 5U);
}

TEST_F(FakeProc, AStepOfAHeterogeneousJobIsItsComponents) {
  process(10, "0::/\n", kUser, 7);
  const char text[] =
      "SLURM_JOB_ID=77\0SLURM_HET_SIZE=2\0SLURM_JOB_ID_HET_GROUP_0=77\0SLURM_JOB_ID_HET_GROUP_1=78";
  write(10, "environ", std::string(text, sizeof text));
  const JobClaim second = [](uint64_t job, uint32_t) { return job == 78; };
  EXPECT_EQ(read_process(root_, 10, second)->job, 78U);
  const JobClaim both = [](uint64_t job, uint32_t) { return job == 77 || job == 78; };
  EXPECT_EQ(read_process(root_, 10, both)->job, 77U);
  const JobClaim other = [](uint64_t job, uint32_t) { return job == 79; };
  EXPECT_EQ(read_process(root_, 10, other)->job, 0U);
}

TEST_F(FakeProc, AnyUidOfRootIsRoots) {
  process(10, "0::/slurm/job_5\n", "5001\t0\t0\t0", 7);
  const auto facts = read_process(root_, 10, {});
  EXPECT_TRUE(facts->root);
  EXPECT_EQ(facts->uid, 5001U);
}

TEST_F(FakeProc, TheNumberInAContainerIsTheLastOne) {
  process(4000, "0::/slurm/job_5\n", kUser, 7, "\t40\t7");
  EXPECT_EQ(read_process(root_, 4000, {})->inner_pid, 7U);
  process(4001, "0::/slurm/job_5\n", kUser, 7);
  EXPECT_EQ(read_process(root_, 4001, {})->inner_pid, 4001U);
}

TEST_F(FakeProc, WhatADeadProcessWasIsStillKnown) {
  ProcessTable table(root_, "/dev/nvidia", {});
  process(10, "0::/slurm/job_5\n", kUser, 7);
  EXPECT_EQ(table.look(10, 1).job, 5U);
  std::filesystem::remove_all(root_ + "/10");
  table.sweep();
  EXPECT_FALSE(table.look(10, 2).alive);
  EXPECT_EQ(table.look(10, 2).job, 5U);
}

// The driver goes on listing a dead process whose memory a child holds.
TEST_F(FakeProc, ANumberUsedAgainWhileItIsListedIsTheOldOneUntilItHasTheDriverOpen) {
  ProcessTable table(root_, "/dev/nvidia", {});
  process(10, "0::/slurm/job_5\n", kUser, 7);
  table.look(10, 1);
  table.sweep();
  process(10, "0::/slurm/job_6\n", kUser, 8);
  std::filesystem::create_directories(root_ + "/10/fd");
  std::filesystem::create_symlink("/dev/null", root_ + "/10/fd/0");
  for (uint64_t second = 2; second < 20; second++) {
    const ProcessFacts& facts = table.look(10, second * 1'000'000'000);
    EXPECT_FALSE(facts.alive);
    EXPECT_EQ(facts.job, 5U);
    EXPECT_EQ(facts.start_ticks, 7U);
    table.sweep();
  }
  std::filesystem::create_symlink("/dev/nvidiactl", root_ + "/10/fd/3");
  EXPECT_TRUE(table.look(10, 20'000'000'000).alive);
  EXPECT_EQ(table.look(10, 20'000'000'000).job, 6U);
  EXPECT_EQ(table.look(10, 20'000'000'000).start_ticks, 8U);
}

TEST_F(FakeProc, ANumberThatWasNotListedInBetweenIsAnotherProcess) {
  ProcessTable table(root_, "/dev/nvidia", {});
  process(10, "0::/slurm/job_5\n", kUser, 7);
  table.look(10, 1);
  table.sweep();
  table.sweep();
  process(10, "0::/slurm/job_6\n", kUser, 8);
  EXPECT_EQ(table.look(10, 3).job, 6U);
  EXPECT_TRUE(table.look(10, 3).alive);
}

TEST_F(FakeProc, OnlyWhoWasJudgedIsKilled) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const pid_t child = fork();
  if (child == 0) {
    if (setresuid(5001, 5001, 5001) != 0) _exit(1);
    for (;;) pause();
  }
  usleep(50000);
  const auto pid = static_cast<uint32_t>(child);
  const auto real = sys::process_state("/proc", child).start_ticks;
  process(pid, "0::/slurm/job_5\n", kUser, real);
  EXPECT_EQ(kill_process(root_, {pid, real + 1, 5, 5001}, {}), KillResult::kGone);
  EXPECT_EQ(kill_process(root_, {pid, real, 6, 5001}, {}), KillResult::kNotTheSame);
  EXPECT_EQ(kill_process(root_, {pid, real, 5, 5002}, {}), KillResult::kNotTheSame);
  EXPECT_EQ(kill_process(root_, {pid, 0, 5, 5001}, {}), KillResult::kNotTheSame);
  EXPECT_EQ(kill_process(root_, {1, real, 5, 5001}, {}), KillResult::kNotTheSame);
  process(pid, "0::/slurm/job_5\n", "0\t5001\t5001\t5001", real);
  EXPECT_EQ(kill_process(root_, {pid, real, 5, 5001}, {}), KillResult::kRoot);
  EXPECT_EQ(kill(child, 0), 0);
  process(pid, "0::/slurm/job_5\n", kUser, real);
  EXPECT_EQ(kill_process(root_, {pid, real, 5, 5001}, {}), KillResult::kKilled);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(kill_process(root_, {pid, real, 5, 5001}, {}), KillResult::kGone);
}

}  // namespace
}  // namespace softmig::agent
