// The agent's judgement on invented facts: the time is whatever the test says.
#include "policy/verdict.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <vector>

namespace softmig::policy {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1024 * kMiB;

// A node with one sliced GPU and job 7, which may have 12 GiB and a quarter of its time.
class VerdictTest : public testing::Test {
 protected:
  VerdictTest() : judge_(std::make_unique<Judge>()) {
    devices_ = {{true, true, 0}};
    slices_ = {{7, 0, 12 * kGiB, 25, true, false, false, 0}};
  }

  GpuProcess process(uint32_t pid, uint64_t bytes, uint64_t charged) {
    GpuProcess made;
    made.pid = pid;
    made.uid = 5001;
    made.start_ticks = pid * 10;
    made.job = 7;
    made.alive = made.bytes_known = true;
    made.bytes = bytes;
    made.in_ledger = charged != 0;
    made.charged = charged;
    return made;
  }

  // What the next look says, `after_ns` later. The ledger is the sum of the processes' charges
  // unless `ledger` says otherwise.
  std::vector<Verdict> look(const std::vector<GpuProcess>& processes, uint64_t after_ns = kSecond,
                            uint64_t ledger = UINT64_MAX) {
    now_ += after_ns;
    if (!slices_.empty()) {
      slices_[0].charged = ledger;
      if (ledger == UINT64_MAX) {
        slices_[0].charged = 0;
        for (const GpuProcess& p : processes) slices_[0].charged += p.job == 7 ? p.charged : 0;
      }
    }
    std::vector<Verdict> out(64);
    out.resize(
        static_cast<size_t>(judge_->look(now_, processes, slices_, devices_, tolerance_, out)));
    return out;
  }

  std::unique_ptr<Judge> judge_;
  std::vector<SliceOfGpu> slices_;
  std::vector<JudgedDevice> devices_;
  Tolerance tolerance_;
  uint64_t now_ = 1000 * kSecond;
};

TEST_F(VerdictTest, WithinLimitsThereIsNothingToSay) {
  for (int i = 0; i < 100; i++) {
    EXPECT_TRUE(look({process(1, 5 * kGiB, 5 * kGiB), process(2, 7 * kGiB, 7 * kGiB)}).empty());
    EXPECT_FALSE(judge_->undecided());
  }
}

TEST_F(VerdictTest, OverTheLimitIsSaidAtTheSecondLook) {
  const std::vector<GpuProcess> both = {process(1, 5 * kGiB, 5 * kGiB),
                                        process(2, 9 * kGiB, 7 * kGiB)};
  EXPECT_TRUE(look(both).empty());
  EXPECT_TRUE(judge_->undecided());
  const uint64_t since = now_;
  const auto verdicts = look(both, kSecond / 4);
  ASSERT_EQ(verdicts.size(), 1U);  // 2 GiB beyond the ledger: within the tolerance of none
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kOverMemory);
  EXPECT_EQ(verdicts[0].job, 7U);
  EXPECT_EQ(verdicts[0].pid, 2U);
  EXPECT_EQ(verdicts[0].amount, 14 * kGiB);
  EXPECT_EQ(verdicts[0].limit, 12 * kGiB);
  EXPECT_EQ(verdicts[0].since_ns, since);
}

TEST_F(VerdictTest, TheToleranceIsForEachProcessUpToTheFourth) {
  const auto at = [&](int count, uint64_t beyond) {
    std::vector<GpuProcess> list;
    for (int i = 0; i < count; i++) {
      list.push_back(process(static_cast<uint32_t>(i + 1), 12 * kGiB / count, 12 * kGiB / count));
    }
    list[0].bytes += beyond;
    for (int i = 0; i < 3; i++) look({});
    look(list);
    return !look(list).empty();
  };
  EXPECT_FALSE(at(1, 512 * kMiB));
  EXPECT_TRUE(at(1, 514 * kMiB));
  EXPECT_FALSE(at(4, 2048 * kMiB));
  EXPECT_TRUE(at(4, 2052 * kMiB));
  EXPECT_TRUE(at(6, 2052 * kMiB));
}

TEST_F(VerdictTest, OneLookAloneSaysNothing) {
  for (int i = 0; i < 50; i++) {
    EXPECT_TRUE(look({process(1, 20 * kGiB, 1 * kGiB)}).empty());
    EXPECT_TRUE(look({process(1, 1 * kGiB, 1 * kGiB)}).empty());
  }
}

TEST_F(VerdictTest, AJobThatSlurmGaveTheGpuIsNoStrangerBesideConfigsOfTheDead) {
  GpuProcess whole = process(1, kGiB, 0);
  whole.job = 8;
  whole.no_config = true;
  devices_[0].deserted = true;
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({whole}).empty());
  devices_[0].deserted = false;
  look({whole});
  ASSERT_EQ(look({whole}).size(), 1U);
  // Outside of jobs, and with a config for another GPU, nobody is entitled to it.
  devices_[0].deserted = true;
  for (int i = 0; i < 2; i++) look({});
  GpuProcess login = process(2, kGiB, 0), other = process(3, kGiB, 0);
  login.job = 0;
  other.job = 9;
  look({login, other});
  EXPECT_EQ(look({login, other}).size(), 2U);
}

TEST_F(VerdictTest, AProcessInNoLedgerIsNamed) {
  look({process(1, 2 * kGiB, 2 * kGiB), process(3, 600 * kMiB, 0)});
  const auto verdicts =
      look({process(1, 2 * kGiB, 2 * kGiB), process(3, 600 * kMiB, 0)}, kSecond / 4);
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kNoLibrary);
  EXPECT_EQ(verdicts[0].pid, 3U);
}

TEST_F(VerdictTest, WithoutARegionOfRootsNobodyKnowsWhoIsInTheLedger) {
  slices_[0].ledger_known = false;
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({process(3, 11 * kGiB, 0)}).empty());
}

TEST_F(VerdictTest, ALedgerThatSaysLessThanTheDriverIsNamed) {
  look({process(1, 4 * kGiB, 4 * kGiB)}, kSecond, 0);
  const auto verdicts = look({process(1, 4 * kGiB, 4 * kGiB)}, kSecond, 0);
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kLedger);
  EXPECT_EQ(verdicts[0].amount, 4 * kGiB);
  EXPECT_EQ(verdicts[0].limit, 0U);
}

TEST_F(VerdictTest, ALedgerThatSaysMoreIsFine) {
  for (int i = 0; i < 5; i++) {
    EXPECT_TRUE(look({process(1, 4 * kGiB, 4 * kGiB)}, kSecond, 9 * kGiB).empty());
  }
}

TEST_F(VerdictTest, ALedgerThatMovesWhileTheDriverIsAskedSaysNothing) {
  slices_[0].ledger_moving = true;
  for (int i = 0; i < 5; i++)
    EXPECT_TRUE(look({process(1, 4 * kGiB, 4 * kGiB)}, kSecond, 0).empty());
}

TEST_F(VerdictTest, ABrokenLedgerIsNamed) {
  slices_[0].ledger_known = false;
  slices_[0].ledger_broken = true;
  look({process(1, kGiB, 0)});
  const auto verdicts = look({process(1, kGiB, 0)});
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kLedger);
}

TEST_F(VerdictTest, AStrangerIsNamedOnSlicedGpusAlone) {
  GpuProcess stranger = process(9, kGiB, 0);
  stranger.job = 0;
  look({stranger});
  auto verdicts = look({stranger});
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kStranger);
  stranger.job = 8;  // of a job that has no slice of this GPU
  look({stranger});
  verdicts = look({stranger});
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].job, 8U);
  devices_[0].sliced = false;
  slices_.clear();
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({stranger}).empty());
}

TEST_F(VerdictTest, RootsProcessesOutsideOfJobsAreTheSystems) {
  GpuProcess daemon = process(9, kGiB, 0);
  daemon.job = 0;
  daemon.uid = 0;
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({daemon}).empty());
}

TEST_F(VerdictTest, WhatADeadProcessHoldsIsAnOrphanAfterTenSeconds) {
  GpuProcess dead = process(1, 20 * kGiB, 0);
  dead.alive = false;
  for (int i = 0; i < 10; i++) EXPECT_TRUE(look({dead}).empty()) << i;
  const auto verdicts = look({dead});
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0].kind, VerdictKind::kOrphan);
  // A process of which nothing was ever known has nobody to be named.
  GpuProcess unknown = dead;
  unknown.job = 0;
  unknown.pid = 2;
  for (int i = 0; i < 20; i++) EXPECT_TRUE(look({unknown}).empty());
}

TEST_F(VerdictTest, AProcessOfAJobThatHasEndedIsAnOrphanAndNoStranger) {
  slices_.clear();
  GpuProcess late = process(1, kGiB, 0);
  late.job_ended = true;
  for (int i = 0; i < 10; i++) EXPECT_TRUE(look({late}).empty());
  ASSERT_EQ(look({late}).size(), 1U);
}

TEST_F(VerdictTest, ADriverThatTellsNothingAccusesNobody) {
  const std::vector<GpuProcess> guilty = {process(1, 20 * kGiB, 12 * kGiB)};
  look(guilty);
  EXPECT_EQ(look(guilty).size(), 2U);
  devices_[0].listed = false;
  for (int i = 0; i < 60; i++) EXPECT_TRUE(look({}).empty());
  devices_[0].listed = true;
  EXPECT_TRUE(look(guilty).empty());  // it begins anew
  EXPECT_EQ(look(guilty).size(), 2U);
}

TEST_F(VerdictTest, MemoryThatTheDriverDoesNotTellIsNotHeldAgainstAnybody) {
  GpuProcess process_of = process(1, 0, 4 * kGiB);
  process_of.bytes_known = false;
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({process_of}).empty());
}

TEST_F(VerdictTest, TheSameVerdictKeepsItsNumberAndItsBeginning) {
  const std::vector<GpuProcess> guilty = {process(1, 13 * kGiB, 12 * kGiB)};
  look(guilty);
  const auto first = look(guilty);
  ASSERT_EQ(first.size(), 2U);
  for (int i = 0; i < 20; i++) {
    const auto later = look(guilty);
    ASSERT_EQ(later.size(), 2U);
    EXPECT_EQ(later[0].id, first[0].id);
    EXPECT_EQ(later[0].since_ns, first[0].since_ns);
  }
  look({});
  look(guilty);
  EXPECT_NE(look(guilty)[0].id, first[0].id);
}

// GPU time comes in samples of two seconds.
class ComputeTest : public VerdictTest {
 protected:
  // Seconds until the verdict, 0: none within `most` seconds.
  uint64_t named_after(const std::vector<unsigned>& percents, uint64_t most = 120) {
    devices_[0].sample_ns = 2 * kSecond;
    for (uint64_t second = 2; second <= most; second += 2) {
      std::vector<GpuProcess> list;
      for (size_t i = 0; i < percents.size(); i++) {
        list.push_back(process(static_cast<uint32_t>(i + 1), kGiB, kGiB));
        list.back().busy_ns = 2 * kSecond / 100 * percents[i];
        if (i > 0) list.back().job = 8;
      }
      slices_.resize(2);
      slices_[1] = {8, 0, 0, 0, true, false, false, 8 * kGiB};
      for (const Verdict& verdict : look(list, 2 * kSecond)) {
        if (verdict.kind == VerdictKind::kOverCompute) return second;
      }
    }
    return 0;
  }
};

TEST_F(ComputeTest, AJobWithinItsShareIsNeverNamed) {
  EXPECT_EQ(named_after({25}), 0U);
  EXPECT_EQ(named_after({34}), 0U);
}

TEST_F(ComputeTest, AFullGpuIsNamedWithinHalfTheWindow) {
  const uint64_t after = named_after({100});
  EXPECT_GT(after, 8U);
  EXPECT_LE(after, 16U);
}

TEST_F(ComputeTest, FortyPercentAreNamedWithinThirtySeconds) {
  const uint64_t after = named_after({40});
  EXPECT_GT(after, 20U);
  EXPECT_LE(after, 32U);
}

TEST_F(ComputeTest, TimesThatOverlapAreSharedOut) {
  // Each of four contexts is said to be busy all the time, since they take turns.
  EXPECT_EQ(named_after({100, 100, 100, 100}), 0U);
  judge_ = std::make_unique<Judge>();
  EXPECT_NE(named_after({100, 10}), 0U);
}

TEST_F(ComputeTest, ABurstIsForgottenAfterThirtySeconds) {
  devices_[0].sample_ns = 2 * kSecond;
  GpuProcess busy = process(1, kGiB, kGiB);
  busy.busy_ns = 2 * kSecond;
  for (int i = 0; i < 5; i++) EXPECT_TRUE(look({busy}, 2 * kSecond).empty());
  EXPECT_EQ(judge_->used_within_window(now_, 7, 0), 10 * kSecond);
  busy.busy_ns = 0;
  for (int i = 0; i < 15; i++) EXPECT_TRUE(look({busy}, 2 * kSecond).empty());
  EXPECT_EQ(judge_->used_within_window(now_, 7, 0), 0U);
}

TEST_F(VerdictTest, MoreSuspicionsThanThereIsRoomForAreKeptInBounds) {
  std::vector<GpuProcess> bomb;
  for (uint32_t i = 0; i < 3 * Judge::kMostSuspicions; i++) bomb.push_back(process(i + 2, kMiB, 0));
  look(bomb);
  EXPECT_EQ(look(bomb).size(), 64U);  // as many as the caller takes
  bomb.erase(bomb.begin(), bomb.begin() + 2000);
  look(bomb);  // room is made
  EXPECT_TRUE(judge_->undecided());
  look(bomb);
  EXPECT_EQ(look(bomb).size(), 64U);
}

TEST_F(VerdictTest, TenThousandChangesOfVerdictLeaveNothingBehind) {
  for (int i = 0; i < 10000; i++) {
    const std::vector<GpuProcess> guilty = {process(static_cast<uint32_t>(i + 2), kGiB, 0)};
    look(guilty);
    ASSERT_EQ(look(guilty).size(), 1U) << i;
  }
  for (int i = 0; i < 3; i++) EXPECT_TRUE(look({}).empty());
  EXPECT_FALSE(judge_->undecided());
}

// A day of honest load. Processes come and go, numbers are used again, what was taken between the
// driver's figure and the ledger's shows in one look, the dead linger in the driver's list, code is
// loaded late, the driver pauses.
TEST_F(VerdictTest, AnHonestDayPassesWithoutAVerdict) {
  std::mt19937 random(4711);
  const auto chance = [&](unsigned one_in) { return random() % one_in == 0; };
  struct Life {
    uint32_t pid;
    uint64_t start, charged, beyond;
    int dying;  // looks for which the driver still lists it after its end
  };
  std::vector<Life> lives;
  devices_[0].sample_ns = kSecond;
  for (uint64_t second = 0; second < 86400; second++) {
    if (lives.size() < 6 && chance(4)) {
      lives.push_back({static_cast<uint32_t>(100 + random() % 40), second, 556 * kMiB, 0, 0});
    }
    std::vector<GpuProcess> list;
    std::set<uint32_t> numbers;
    uint64_t ledger = 0;
    slices_[0].ledger_moving = false;
    for (Life& life : lives) {
      const uint64_t most = 12 * kGiB / 6;
      if (life.dying == 0 && chance(40)) life.dying = 1 + static_cast<int>(random() % 3);
      if (life.dying == 0) life.charged = 556 * kMiB + random() % (most - 556 * kMiB);
      if (life.dying == 0 && chance(10)) life.beyond = random() % (400 * kMiB);
      if (!numbers.insert(life.pid).second) continue;
      // Taken and given back again while the driver was asked.
      const uint64_t moving = chance(20) ? random() % (most - life.charged + 1) : 0;
      slices_[0].ledger_moving = slices_[0].ledger_moving || moving != 0;
      GpuProcess seen = process(life.pid, life.charged + life.beyond + moving, life.charged);
      seen.start_ticks = life.start + 1;
      seen.alive = life.dying == 0;
      seen.busy_ns = kSecond / 100 * (random() % 8);
      list.push_back(seen);
      ledger += life.charged;
    }
    // A look falls between reservation and use, too: the ledger then says more.
    if (chance(10)) ledger += random() % kGiB;
    devices_[0].listed = !chance(500);
    for (const Verdict& verdict : look(list, kSecond, ledger)) {
      FAIL() << verdict_name(verdict.kind) << " " << verdict.amount / kMiB << " MiB, second "
             << second;
    }
    std::erase_if(lives, [](Life& life) { return life.dying > 0 && --life.dying == 0; });
  }
}

TEST(BeyondLedger, IsWhatTheDriverHoldsAndNobodyWasCharged) {
  std::vector<GpuProcess> list(3);
  for (GpuProcess& process : list) {
    process.job = 7;
    process.bytes_known = true;
    process.bytes = 1000;
    process.charged = 900;
    process.ahead = 20;
  }
  list[2].job = 8;
  const BeyondLook look = look_beyond(list, 7, 0, 0);
  EXPECT_EQ(look.ahead, 40U);
  EXPECT_EQ(look.processes, 2U);
  EXPECT_EQ(beyond_ledger(look), 200U);
  EXPECT_EQ(beyond_ledger(look_beyond(list, 7, 0, 150)), 50U);
  EXPECT_EQ(beyond_ledger(look_beyond(list, 7, 0, 5000)), 0U);
  list[0].bytes_known = false;
  EXPECT_EQ(beyond_ledger(look_beyond(list, 7, 0, 0)), 100U);
}

// What is taken off the limit after each of these looks.
std::vector<uint64_t> taken_off(const std::vector<BeyondLook>& looks) {
  Beyond beyond;
  std::vector<uint64_t> found;
  for (const BeyondLook& look : looks) found.push_back(beyond.note(look));
  return found;
}

TEST(Beyond, WhatShowsOnceIsNotTakenOffAndWhatStaysIs) {
  const BeyondLook more = {130, 100, 0, 0}, none = {100, 100, 0, 0}, less = {90, 100, 0, 0};
  EXPECT_EQ(taken_off({none, more, none, none}), (std::vector<uint64_t>{0, 0, 0, 0}));
  EXPECT_EQ(taken_off({none, more, more, less}), (std::vector<uint64_t>{0, 0, 30, 0}));
}

TEST(Beyond, EachProcessHoldsMoreThanTheDriverLists) {
  const BeyondLook look = {1000, 1000, 0, 2};
  EXPECT_EQ(taken_off({look, look}).back(), 2 * kUnlistedBytes);
}

// 96 reserved ahead hid 70 of code.
TEST(Beyond, WhatIsReservedAheadHidesNothingOnceTheLedgerStandsStill) {
  const BeyondLook still = {570, 596, 96, 0};
  EXPECT_EQ(taken_off({still, still, still}), (std::vector<uint64_t>{0, 0, 70}));
}

TEST(Beyond, AMovingLedgerKeepsWhatWasFoundAsFarAsItCanBeTrue) {
  const BeyondLook still = {570, 596, 96, 0};
  // The pools grew by 60, and the ledger has seen 30 of it.
  const BeyondLook moving = {630, 626, 96, 0}, at_limit = {700, 630, 0, 0}, less = {640, 630, 0, 0};
  EXPECT_EQ(taken_off({still, still, still, moving, moving, at_limit, less, less}),
            (std::vector<uint64_t>{0, 0, 70, 70, 70, 70, 10, 10}));
}

}  // namespace
}  // namespace softmig::policy
