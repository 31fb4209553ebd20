#include "cli/node_state.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

namespace softmig::cli {
namespace {

TEST(Slots, NeighboursWhereTheyCanBeHad) {
  EXPECT_EQ(choose_slots(4, 1, 0b0000), 0b0001U);
  EXPECT_EQ(choose_slots(4, 2, 0b0001), 0b0110U);
  EXPECT_EQ(choose_slots(4, 2, 0b0101), 0b1010U);
  EXPECT_EQ(choose_slots(4, 4, 0), 0b1111U);
  EXPECT_EQ(choose_slots(32, 32, 0), UINT32_MAX);
  EXPECT_EQ(choose_slots(32, 1, 0x7fffffff), 0x80000000U);
}

TEST(Slots, NoneAreLeft) {
  EXPECT_FALSE(choose_slots(4, 2, 0b1101));
  EXPECT_FALSE(choose_slots(4, 5, 0));
  EXPECT_FALSE(choose_slots(4, 0, 0));
  EXPECT_FALSE(choose_slots(33, 1, 0));
}

TEST(Slots, AreWrittenAsAConfigWantsThem) {
  EXPECT_EQ(slots_text(0b1, 4), "0/4");
  EXPECT_EQ(slots_text(0b101, 4), "0,2/4");
  EXPECT_EQ(slots_text(0x80000000, 32), "31/32");
}

TEST(State, ThereAndBack) {
  JobState state;
  state.claims = {{"GPU-a", 4, 0b110}, {"GPU-b", 32, 0xffffffff}};
  const auto again = parse_state(7, state_text(state));
  ASSERT_TRUE(again);
  ASSERT_EQ(again->claims.size(), 2U);
  EXPECT_EQ(again->claims[0].mask, 0b110U);
  EXPECT_EQ(again->claims[1].count, 32U);
  EXPECT_EQ(again->claims[1].mask, 0xffffffffU);
  EXPECT_FALSE(parse_state(7, "GPU-a 4\n"));
  EXPECT_FALSE(parse_state(7, "GPU-a 99 1\n"));
}

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-state.XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void make(const std::string& name) { std::ofstream(folder_ + "/" + name) << "x"; }
  bool has(const std::string& name) { return std::filesystem::exists(folder_ + "/" + name); }
  std::string folder_;
};

TEST_F(Folder, ForgetsOneJobAndNoOther) {
  const NodeState state(folder_);
  for (const char* name : {"12.conf", "12.conf.new.99", "12.region", "12.region.extra", "12.state",
                           "123.conf", "1.state", "2.region", "cgroup_ns", "lock"}) {
    make(name);
  }
  EXPECT_EQ(state.jobs(), (std::vector<uint64_t>{1, 2, 12, 123}));
  state.forget(12, false);
  EXPECT_TRUE(has("12.conf"));
  EXPECT_FALSE(has("12.conf.new.99") || has("12.region") || has("12.region.extra"));
  state.forget(12, true);
  EXPECT_FALSE(has("12.conf"));
  EXPECT_TRUE(has("123.conf") && has("1.state") && has("2.region") && has("cgroup_ns"));
  state.forget(12, true);
}

TEST_F(Folder, KnowsWhichJobsBeganHere) {
  const NodeState state(folder_);
  for (const char* name : {"12.conf", "13.state", "123.conf", "14.region"}) make(name);
  EXPECT_TRUE(state.knows(12) && state.knows(13) && state.knows(123));
  EXPECT_FALSE(state.knows(1) || state.knows(14));
}

TEST_F(Folder, ABuriedJobCanAllocateNothingForAWhile) {
  const NodeState state(folder_);
  make("7.region");
  state.bury(7);
  EXPECT_FALSE(has("7.region"));
  state.forget(8, true);
  ASSERT_TRUE(has("7.conf"));
  make("9.conf");
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  for (const char* name : {"/7.conf", "/9.conf"}) {
    std::filesystem::last_write_time(folder_ + name, long_ago);
  }
  state.forget(8, true);
  EXPECT_FALSE(has("7.conf"));
  EXPECT_TRUE(has("9.conf"));
}

TEST_F(Folder, TakenAreTheSlotsOfOthersOnThatGpu) {
  const NodeState state(folder_);
  state.publish("1.state", state_text({1, {{"GPU-a", 4, 0b0001}}}));
  state.publish("2.state", state_text({2, {{"GPU-a", 4, 0b0100}, {"GPU-b", 4, 0b1000}}}));
  state.publish("3.state", state_text({3, {{"GPU-c", 8, 0b1}}}));
  EXPECT_EQ(state.taken(9, "GPU-a", 4), 0b0101U);
  EXPECT_EQ(state.taken(2, "GPU-a", 4), 0b0001U);
  EXPECT_EQ(state.taken(9, "GPU-b", 4), 0b1000U);
  EXPECT_EQ(state.taken(9, "GPU-c", 4), 0b1111U);
}

}  // namespace
}  // namespace softmig::cli
