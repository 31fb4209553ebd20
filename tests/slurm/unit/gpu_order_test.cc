#include "cli/gpu_order.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace softmig::cli {
namespace {

TEST(GpuOrder, StampChangesWithEveryFileThatCounts) {
  char name[] = "/tmp/softmig-order.XXXXXX";
  const std::string folder = mkdtemp(name);
  const auto write = [&](const std::string& file, const std::string& text) {
    std::ofstream(folder + "/" + file) << text;
  };
  const auto stamp = [&] { return slurm_config_stamp(folder + "/slurm.conf"); };
  const std::string none = stamp();
  write("slurm.conf", "ClusterName=x\n  include nodes.conf\n");
  const std::string without_gres = stamp();
  EXPECT_NE(without_gres, none);
  write("gres.conf", "Include " + folder + "/more.conf\n");
  const std::string before = stamp();
  EXPECT_NE(before, without_gres);
  EXPECT_EQ(stamp(), before);
  write("nodes.conf", "a");
  const std::string nodes = stamp();
  EXPECT_NE(nodes, before);
  write("more.conf", "b");
  EXPECT_NE(stamp(), nodes);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace softmig::cli
