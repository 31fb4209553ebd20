// The board of a GPU: what jobs on it say about their slots.
#include "job/board.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "scratch.h"

namespace softmig::job {
namespace {

constexpr uint64_t kKey = 0x0123456789abcdef, kNow = 1'000'000;

class Board : public ::testing::Test {
 protected:
  static std::string name(uint32_t slot) { return "0123456789abcdef." + std::to_string(slot); }
  std::string file(uint32_t slot) { return folder_.path(name(slot)); }
  uint32_t open(uint32_t skip = 0) { return open_slots(directory(), kKey, 4, skip, kNow); }
  void claim(uint32_t mask, uint64_t until) { claim_slots(directory(), kKey, mask, until); }
  const char* directory() {
    path_ = folder_.path();
    return path_.c_str();
  }

  testing::Scratch folder_;
  std::string path_;
};

TEST_F(Board, SlotsWithoutAFileAreNobodys) {
  EXPECT_EQ(open(), 0b1111u);
  EXPECT_EQ(open(0b0100), 0b1011u);
}

TEST_F(Board, FilesWithoutAWordClaimNothing) {
  folder_.write(name(0), "");
  folder_.write(name(1), "1234567");
  EXPECT_EQ(open(), 0b1111u);
}

TEST_F(Board, AClaimHoldsUntilItEnds) {
  claim(0b0011, kNow + 1);
  claim(0b1100, kNow);
  EXPECT_EQ(open(), 0b1100u);
  claim(0b0001, 0);
  EXPECT_EQ(open(), 0b1101u);
}

TEST_F(Board, OtherGpusAreOtherBoards) {
  claim(0b1111, kNow + 1);
  EXPECT_EQ(open(), 0u);
  EXPECT_EQ(open_slots(directory(), kKey + 1, 4, 0, kNow), 0b1111u);
}

TEST_F(Board, WhatIsNoFileHoldsNobodyUp) {
  ASSERT_EQ(mkfifo(file(0).c_str(), 0666), 0);
  ASSERT_EQ(symlink("/dev/zero", file(1).c_str()), 0);
  ASSERT_EQ(mkdir(file(2).c_str(), 0777), 0);
  claim(0b0111, kNow + 1);
  EXPECT_EQ(open() & 0b0010, 0u);
}

TEST_F(Board, TurnsAreReadByTheOthersAndLeaveClaimsAlone) {
  claim(0b0001, kNow + 1);
  tell_turn(directory(), kKey, {.slot = 0, .until_ns = kNow + 7});
  tell_turn(directory(), kKey, {.slot = 2, .until_ns = kNow + 9});
  folder_.write(name(1), "12345678");
  policy::TurnBoard board = {};
  board.until_ns[3] = 5;
  read_turns(directory(), kKey, 4, 0b0100, board);
  EXPECT_EQ(board.until_ns[0], kNow + 7);
  EXPECT_EQ(board.until_ns[1], 0u) << "a claim alone";
  EXPECT_EQ(board.until_ns[2], 0u) << "its own";
  EXPECT_EQ(board.until_ns[3], 0u) << "no file";
  EXPECT_EQ(open(), 0b1100u) << "slot 2 does not say that it is filled";
}

TEST_F(Board, AFolderThatIsGoneIsNoError) {
  tell_turn("/nowhere/board", kKey, {.slot = 1, .until_ns = kNow});
  claim_slots("/nowhere/board", kKey, 1, kNow);
  EXPECT_EQ(open_slots("/nowhere/board", kKey, 4, 0, kNow), 0u);
}

}  // namespace
}  // namespace softmig::job
