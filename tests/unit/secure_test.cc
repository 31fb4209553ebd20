#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "child.h"
#include "scratch.h"

namespace softmig {
namespace {

using ::testing::HasSubstr;
using testing::in_child_as;
using testing::kNobody;

// A setuid program that an ordinary user starts with variables of his choice.
class PrivilegedProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    struct statvfs mount = {};
    statvfs(scratch.path().c_str(), &mount);
    if (geteuid() != 0 || (mount.f_flag & ST_NOSUID) != 0) GTEST_SKIP() << "no setuid here";
    umask(022);
    chmod(scratch.path().c_str(), 0755);
    testing::fs::copy_file(SECURE_PROBE, probe);
    chmod(probe.c_str(), 04755);
    scratch.write("proc/self/cgroup", "0::/slurmstepd.scope/job_122/step_0/user/task_0\n");
    for (const char* folder : {"run", "log", "home"})
      testing::fs::create_directory(scratch.path(folder));
    chmod(scratch.path("home").c_str(), 0777);
    chmod(scratch.path("log").c_str(), 01777);
    variables.set("CUDA_DEVICE_MEMORY_LIMIT", "4G");
    variables.set("SOFTMIG_LOG_FILE", scratch.path("home/planted.log"));
    variables.set("SOFTMIG_LOG_LEVEL", "4");
    variables.set("SLURM_TMPDIR", scratch.path("home"));
  }

  std::string run() {
    const std::string out = scratch.path("home/out");
    EXPECT_EQ(in_child_as(kNobody,
                          [&] {
                            if (!freopen(out.c_str(), "w", stdout)) return 2;
                            execl(probe.c_str(), "probe", scratch.path("run").c_str(),
                                  scratch.path("proc").c_str(), scratch.path("log").c_str(),
                                  nullptr);
                            return 3;
                          }),
              0);
    return testing::contents_of(out);
  }

  testing::Scratch scratch;
  testing::Variables variables;
  const std::string probe = scratch.path("probe");
};

TEST_F(PrivilegedProgram, ListensToNoVariable) { EXPECT_EQ(run(), "secure\nno-variables\nnone\n"); }

TEST_F(PrivilegedProgram, ObeysTheConfigOfItsJobAndWritesToItsLogOnly) {
  scratch.write("run/122.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  EXPECT_EQ(run(), "secure\nno-variables\nfile\n");
  EXPECT_FALSE(testing::fs::exists(scratch.path("home/planted.log")));
  EXPECT_THAT(testing::contents_of(scratch.path("log/122.log")), HasSubstr("privileged program"));
}

TEST_F(PrivilegedProgram, IsNotLedToAnotherFileByALink) {
  scratch.write("run/122.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  const std::string victim = scratch.write("victim", "root's\n");
  ASSERT_EQ(symlink(victim.c_str(), scratch.path("log/122.log").c_str()), 0);
  run();
  EXPECT_EQ(testing::contents_of(victim), "root's\n");
  unlink(scratch.path("log/122.log").c_str());
  ASSERT_EQ(link(victim.c_str(), scratch.path("log/122.log").c_str()), 0);
  run();
  EXPECT_EQ(testing::contents_of(victim), "root's\n");
}

}  // namespace
}  // namespace softmig
