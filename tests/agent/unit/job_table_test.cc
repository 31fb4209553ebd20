// Which jobs there are, and what happens when that cannot be read.
#include "agent/job_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace softmig::agent {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kSecond = 1'000'000'000;

class JobTableTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-jobs-XXXXXX";
    root_ = mkdtemp(name);
    run_ = root_ + "/run";
    fs::create_directory(run_);
    fs::permissions(run_, fs::perms(0755));
    write("7.conf");
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& name) {
    std::ofstream(run_ + "/" + name) << "CUDA_DEVICE_MEMORY_LIMIT=4G\nSOFTMIG_UID=5001\n";
    fs::permissions(run_ + "/" + name, fs::perms(0644));
  }
  JobTable table() { return JobTable({.run_dir = run_.c_str(), .trusted_uid = geteuid()}); }
  std::string root_, run_;
};

TEST_F(JobTableTest, AJobEndsWithItsConfig) {
  JobTable jobs = table();
  jobs.refresh(kSecond);
  ASSERT_NE(jobs.find(7), nullptr);
  EXPECT_TRUE(jobs.is_of(7, 5001));
  fs::remove(run_ + "/7.conf");
  jobs.refresh(2 * kSecond);
  EXPECT_EQ(jobs.find(7), nullptr);
  EXPECT_TRUE(jobs.has_ended(7));
  EXPECT_TRUE(jobs.trouble().empty());
}

TEST_F(JobTableTest, NoJobEndsWithTheFolder) {
  JobTable jobs = table();
  jobs.refresh(kSecond);
  fs::rename(run_, root_ + "/away");
  jobs.refresh(2 * kSecond);
  EXPECT_NE(jobs.find(7), nullptr);
  EXPECT_FALSE(jobs.has_ended(7));
  EXPECT_FALSE(jobs.trouble().empty());
  fs::rename(root_ + "/away", run_);
  fs::remove(run_ + "/7.conf");
  write("8.conf");
  jobs.refresh(3 * kSecond);
  EXPECT_TRUE(jobs.trouble().empty());
  EXPECT_TRUE(jobs.has_ended(7));
  EXPECT_NE(jobs.find(8), nullptr);
}

}  // namespace
}  // namespace softmig::agent
