#include "agent/backend.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace softmig::agent {
namespace {

constexpr uint64_t kMinute = 60'000'000'000;

class DriverBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-backend-XXXXXX";
    root_ = mkdtemp(name);
    std::filesystem::create_directories(root_ + "/system.slice/slurmstepd.scope/job_7");
    std::filesystem::create_directories(root_ + "/system.slice/n2_slurmstepd.scope/job_8");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(DriverBackendTest, FindsTheCgroupOfAJob) {
  EXPECT_EQ(job_cgroup(root_, 7), root_ + "/system.slice/slurmstepd.scope/job_7");
  EXPECT_EQ(job_cgroup(root_, 8), root_ + "/system.slice/n2_slurmstepd.scope/job_8");
  EXPECT_EQ(job_cgroup(root_, 9), "");
  EXPECT_EQ(job_cgroup("/nowhere", 7), "");
}

TEST_F(DriverBackendTest, SaysALimitOnceAndWhenItChanges) {
  const auto backend = make_driver_backend(root_);
  auto wanted = backend->wanted({{7, 99, 1000}}, 0);
  ASSERT_EQ(wanted.size(), 1U);
  EXPECT_EQ(wanted[0].cgroup, root_ + "/system.slice/slurmstepd.scope/job_7");
  EXPECT_EQ(wanted[0].bytes, 1000U);
  backend->answered(wanted, 0);
  EXPECT_TRUE(backend->wanted({{7, 99, 1000}}, 10 * kMinute).empty());
  EXPECT_EQ(backend->wanted({{7, 99, 2000}}, 10 * kMinute).size(), 1U);
}

TEST_F(DriverBackendTest, ARefusalIsTriedAgainAfterAMinute) {
  const auto backend = make_driver_backend(root_);
  auto wanted = backend->wanted({{7, 99, 1000}}, 0);
  wanted[0].answer = NVML_ERROR_NO_PERMISSION;
  backend->answered(wanted, 0);
  EXPECT_TRUE(backend->wanted({{7, 99, 1000}}, kMinute / 2).empty());
  EXPECT_EQ(backend->wanted({{7, 99, 1000}}, 2 * kMinute).size(), 1U);
}

TEST_F(DriverBackendTest, AJobWithoutACgroupWaitsForOne) {
  const auto backend = make_driver_backend(root_);
  EXPECT_TRUE(backend->wanted({{9, 99, 1000}}, 0).empty());
  std::filesystem::create_directories(root_ + "/system.slice/slurmstepd.scope/job_9");
  EXPECT_EQ(backend->wanted({{9, 99, 1000}}, 1).size(), 1U);
}

TEST(LibraryBackend, TellsTheDriverNothing) {
  EXPECT_TRUE(make_library_backend()->wanted({{7, 99, 1000}}, 0).empty());
}

}  // namespace
}  // namespace softmig::agent
