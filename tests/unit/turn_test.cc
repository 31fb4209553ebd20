// Turns of jobs that share a GPU: who waits for whom, and what a kernel that went on costs its job.
#include "policy/turn.h"

#include <gtest/gtest.h>

#include "policy/share.h"

namespace softmig::policy {
namespace {

constexpr uint64_t kUs = 1000, kMs = 1000 * kUs, kFrame = 100 * kMs;
constexpr uint64_t kBegin = 1000 * kFrame;  // of a frame

ShareRule quarter(uint32_t mask) {
  return {.percent = 25, .mode = ShareMode::kFill, .slot_mask = mask, .slot_count = 4};
}

class Turn : public ::testing::Test {
 protected:
  // The second slot of four.
  Turn() : rule_(quarter(0b0010)) {}
  Admission ask(uint64_t cost, uint64_t at) {
    return admit(share_, rule_, cost, kBegin + at, false, 0, board_);
  }
  void say(uint32_t slot, uint64_t until) { board_.until_ns[slot] = kBegin + until; }

  ShareRule rule_;
  abi::RegionShare share_ = {};
  TurnBoard board_ = {};
};

TEST_F(Turn, BeginsWithTheSlotIfNobodyIsLate) {
  EXPECT_FALSE(ask(kMs, 24 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 25 * kMs).granted);
  EXPECT_FALSE(ask(kMs, 51 * kMs).granted);
}

TEST_F(Turn, BeginsWhenTheOneBeforeIsDoneAndLastsThatMuchLonger) {
  say(0, 40 * kMs);
  EXPECT_FALSE(ask(kMs, 26 * kMs).granted);
  EXPECT_FALSE(ask(kMs, 39 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 40 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 63 * kMs).granted);
  EXPECT_FALSE(ask(kMs, 66 * kMs).granted);
}

TEST_F(Turn, WaitsOnForWhoIsLaterThanHeSaid) {
  say(0, 40 * kMs);
  EXPECT_FALSE(ask(kMs, 26 * kMs).granted);
  say(0, 45 * kMs);
  EXPECT_FALSE(ask(kMs, 40 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 45 * kMs).granted);
}

TEST_F(Turn, IsNotLateForThoseWhoseTurnComesAfterIt) {
  say(2, 80 * kMs);
  EXPECT_FALSE(ask(kMs, 25 * kMs).granted) << "said in the frame before";
  EXPECT_FALSE(ask(kMs, 49 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 80 * kMs).granted);
  share_.turn_ns = share_.turn_until_ns = 0;
  EXPECT_FALSE(ask(kMs, 24 * kMs).granted);
  say(2, 160 * kMs);
  EXPECT_FALSE(ask(kMs, 126 * kMs).granted);
}

TEST_F(Turn, NobodyIsWaitedForMoreThanThreeQuartersOfAFrame) {
  say(0, 100 * kFrame);
  EXPECT_FALSE(ask(kMs, 26 * kMs).granted);
  EXPECT_FALSE(ask(kMs, 99 * kMs).granted);
  EXPECT_TRUE(ask(kMs, 100 * kMs).granted);
}

TEST_F(Turn, WhoIsLateSaysSoWhileHeWaits) {
  say(0, 40 * kMs);
  const Notice notice = ask(20 * kMs, 26 * kMs).notice;
  EXPECT_EQ(notice.slot, 1u);
  EXPECT_EQ(notice.until_ns, kBegin + 60 * kMs);
  EXPECT_EQ(ask(20 * kMs, 27 * kMs).notice.until_ns, 0u) << "once";
}

TEST_F(Turn, WorkThatEndsInTheSlotIsNotWorthAWord) {
  for (uint64_t at = 25 * kMs; at < 49 * kMs; at += kMs) {
    const Admission admission = ask(kMs, at);
    EXPECT_TRUE(admission.granted);
    EXPECT_EQ(admission.notice.until_ns, 0u);
  }
}

TEST_F(Turn, AKernelThatGoesOnIsSaidAndPaidForByTheTurnsAfterIt) {
  EXPECT_EQ(ask(20 * kMs, 25 * kMs).notice.until_ns, 0u);
  const Admission second = ask(20 * kMs, 45 * kMs);
  EXPECT_TRUE(second.granted) << "5 ms are left";
  EXPECT_EQ(second.notice.until_ns, kBegin + 65 * kMs);
  share_.paid_until_ns = 0;
  EXPECT_TRUE(ask(10 * kMs, 125 * kMs).granted);
  share_.paid_until_ns = 0;
  EXPECT_FALSE(ask(20 * kMs, 135 * kMs).granted) << "25 - 15 - 10: nothing is left";
  EXPECT_TRUE(ask(14 * kMs, 135 * kMs).granted) << "ends with the slot";
}

TEST_F(Turn, TurnsThatWereNotUsedPayForAKernelOfAnyLength) {
  EXPECT_TRUE(ask(200 * kMs, 25 * kMs).granted);
  EXPECT_EQ(share_.turn_spare_ns, -175 * static_cast<int64_t>(kMs));
  share_.paid_until_ns = share_.queued_until_ns = 0;
  EXPECT_FALSE(ask(200 * kMs, 325 * kMs).granted);
  EXPECT_TRUE(ask(200 * kMs, 825 * kMs).granted);
}

TEST_F(Turn, TheBoardIsReadOncePerTurn) {
  EXPECT_FALSE(asks_board(share_, rule_, kBegin));
  EXPECT_TRUE(asks_board(share_, rule_, kBegin + 25 * kMs));
  EXPECT_TRUE(ask(kMs, 25 * kMs).granted);
  EXPECT_FALSE(asks_board(share_, rule_, kBegin + 26 * kMs));
  EXPECT_TRUE(asks_board(share_, rule_, kBegin + 125 * kMs));
}

TEST_F(Turn, AClockThatFellBeginsAnew) {
  EXPECT_TRUE(ask(kMs, 25 * kMs).granted);
  EXPECT_TRUE(admit(share_, rule_, kMs, 30 * kMs, false, 0, board_).granted);
}

TEST(TurnSlots, NeighboursAreOneTurnAcrossTheFrame) {
  const ShareRule rule = quarter(0b1001);
  EXPECT_EQ(slot_at(rule, kBegin + 5 * kMs).first_slot, 3u);
  EXPECT_EQ(slot_at(rule, kBegin + 5 * kMs).since_ns, 30 * kMs + 60 * kUs);
  EXPECT_EQ(slot_at(rule, kBegin + 80 * kMs).since_ns, 5 * kMs + 60 * kUs);
}

}  // namespace
}  // namespace softmig::policy
