#include "job/cgroup.h"

#include <gtest/gtest.h>

#include <string>

#include "scratch.h"

namespace softmig::job {
namespace {

struct Row {
  const char* line;
  uint64_t job;
};

class CgroupLine : public ::testing::TestWithParam<Row> {};

TEST_P(CgroupLine, NamesItsJob) { EXPECT_EQ(job_in_cgroup_line(GetParam().line), GetParam().job); }

INSTANTIATE_TEST_SUITE_P(
    Version1, CgroupLine,
    ::testing::Values(Row{"6:freezer:/slurm_n1/uid_5001/job_122/step_batch", 122},
                      Row{"4:memory:/slurm_n1/uid_5001/job_122/step_batch/task_0", 122},
                      Row{"4:memory:/slurm/uid_5001/job_7", 7},
                      Row{"5:devices:/docker/0af3/slurm/uid_0/job_4294967295/step_0", 4294967295},
                      Row{"9:name=systemd:/", 0}, Row{"1:cpu,cpuacct:/slurm/uid_5001", 0}));

INSTANTIATE_TEST_SUITE_P(
    Version2, CgroupLine,
    ::testing::Values(
        Row{"0::/system.slice/n1_slurmstepd.scope/job_128/step_batch/user/task_0", 128},
        Row{"0::/system.slice/slurmstepd.scope/job_128/step_extern/user/task_special", 128},
        Row{"0::/init.scope/system.slice/slurmstepd.scope/job_9/step_0/user/task_1", 9},
        Row{"0::/system.slice/slurmd.service", 0}, Row{"0::/", 0}));

INSTANTIATE_TEST_SUITE_P(
    Unfit, CgroupLine,
    ::testing::Values(Row{"", 0}, Row{"::", 0}, Row{"job_5", 0}, Row{"0::/job_5", 0},
                      Row{"0::/a/job_5/slurm", 0}, Row{"0::/slurm/job_", 0},
                      Row{"0::/slurm/job_0", 0}, Row{"0::/slurm/job_5x", 0},
                      Row{"0::/slurm/job_-5", 0}, Row{"0::/slurm/job_4294967296", 0},
                      Row{"0::/slurm/xjob_5", 0}, Row{"0::/../../job_5/slurm", 0},
                      // A user's own directories.
                      Row{"0::/user.slice/user-5001.slice/user@5001.service/slurm/job_5", 0},
                      Row{"0::/slurm/job_5/step_0/user/task_0/slurm/job_999", 5},
                      // A colon may stand in a path.
                      Row{"0::/slurm:x/job_5:6/job_7", 7}));

TEST(CgroupLine, ThatWasCutDoesNotNameHalfAJob) {
  EXPECT_EQ(job_in_cgroup_line("0::/slurm/job_12", false), 0u);
  EXPECT_EQ(job_in_cgroup_line("0::/slurm/job_12/st", false), 12u);
}

TEST(CgroupFile, IsReadForAnotherProcessAndForItself) {
  const testing::Scratch scratch;
  scratch.write("proc/77/cgroup", "9:name=systemd:/\n6:freezer:/slurm/uid_1/job_31/step_0\n0::/\n");
  scratch.write("proc/self/cgroup",
                "0::/system.slice/slurmstepd.scope/job_32/step_0/user/task_0\n");
  scratch.write("proc/78/cgroup", "0::/\n");
  const std::string proc = scratch.path("proc");
  EXPECT_EQ(job_of_process(proc.c_str(), 77), 31u);
  EXPECT_EQ(job_of_process(proc.c_str(), 78), 0u);
  EXPECT_EQ(job_of_process(proc.c_str(), 79), 0u);
  EXPECT_EQ(job_of_self(proc.c_str()), 32u);
}

TEST(CgroupFile, MayHaveALineOfAnyLength) {
  const testing::Scratch scratch;
  const std::string long_line(5000, 'x');
  scratch.write("proc/1/cgroup", "1:a:/" + long_line + "\n0::/slurm/job_5/" + long_line + "\n");
  EXPECT_EQ(job_of_process(scratch.path("proc").c_str(), 1), 5u);
}

}  // namespace
}  // namespace softmig::job
