#include "cli/gpu_list.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

class Stamp : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-proc-XXXXXX";
    proc_ = mkdtemp(name);
    write("sys/kernel/random/boot_id", "aaaa\n");
    write("driver/nvidia/version", "NVRM version: 580.1\nGCC version: 12\n");
    write("driver/nvidia/gpus/0000:01:00.0/information", "GPU UUID: GPU-1\nIRQ: 20\n");
  }
  void TearDown() override { fs::remove_all(proc_); }
  void write(const std::string& name, const std::string& text) {
    const fs::path path = fs::path(proc_) / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  std::string proc_;
};

TEST_F(Stamp, ChangesWithBootDriverAndCards) {
  const std::string first = gpu_stamp(proc_);
  EXPECT_EQ(first, gpu_stamp(proc_));
  EXPECT_EQ(first.find('\n'), std::string::npos);
  write("sys/kernel/random/boot_id", "bbbb\n");
  const std::string booted = gpu_stamp(proc_);
  write("driver/nvidia/version", "NVRM version: 590.1\n");
  const std::string updated = gpu_stamp(proc_);
  write("driver/nvidia/gpus/0000:02:00.0/information", "GPU UUID: GPU-2\n");
  const std::string added = gpu_stamp(proc_);
  write("driver/nvidia/gpus/0000:02:00.0/information", "GPU UUID: GPU-3\n");
  const std::string replaced = gpu_stamp(proc_);
  fs::remove_all(proc_ + "/driver");
  const std::string gone = gpu_stamp(proc_);
  const std::set<std::string> all = {first, booted, updated, added, replaced, gone};
  EXPECT_EQ(all.size(), 6U);
}

TEST(GpuList, ComesBackAsItWent) {
  const std::vector<NodeGpu> gpus = {{0, "GPU-1", "NVIDIA L40S", 48}, {3, "GPU-2", "a\nb", 80}};
  const auto again = parse_gpu_list(gpu_list_text("stamp", gpus), "stamp");
  ASSERT_EQ(again.size(), 2U);
  EXPECT_EQ(again[0].name, "NVIDIA L40S");
  EXPECT_EQ(again[1].minor, 3);
  EXPECT_EQ(again[1].uuid, "GPU-2");
  EXPECT_EQ(again[1].total, 80U);
}

TEST(GpuList, OfAnotherStampOrInPartIsNone) {
  const std::string text = gpu_list_text("stamp", {{0, "GPU-1", "a", 48}});
  EXPECT_TRUE(parse_gpu_list(text, "other").empty());
  EXPECT_TRUE(parse_gpu_list("", "").empty());
  EXPECT_TRUE(parse_gpu_list("stamp\n0 GPU-1\n", "stamp").empty());
  EXPECT_TRUE(parse_gpu_list("stamp\n0 GPU-1 0 a\n", "stamp").empty());
}

}  // namespace
}  // namespace softmig::cli
