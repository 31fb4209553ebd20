#include "policy/ledger.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <thread>
#include <vector>

namespace softmig::policy {
namespace {

using abi::Region;

class LedgerTest : public testing::Test {
 protected:
  void SetUp() override {
    void* map = mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(map, MAP_FAILED);
    region_ = static_cast<Region*>(map);
  }
  void TearDown() override { munmap(region_, abi::kRegionSize); }

  uint32_t claim(uint32_t pid) {
    const int slot = claim_slot(*region_, {.owner = pack_owner(pid, pid * 7), .pid_namespace = 1});
    EXPECT_GE(slot, 0);
    return static_cast<uint32_t>(slot);
  }
  uint64_t used(uint32_t device = 0) const {
    return used_units(region_->header.device[device].use.load());
  }
  uint64_t charged(uint32_t slot, uint32_t device = 0) const {
    return charged_units(region_->slot[slot].device[device].charge.load());
  }
  void reclaim(uint32_t slot, uint32_t pid) {
    reclaim_slot(*region_, slot, pack_owner(pid, pid * 7));
  }
  void reclaim_all_but(uint32_t living) {
    const uint32_t high = region_->header.high_water.load();
    for (uint32_t i = 0; i < high; i++) {
      const abi::PackedOwner owner = region_->slot[i].owner.load();
      if (owner != 0 && owner_pid(owner) != living) reclaim_slot(*region_, i, owner);
    }
  }

  Region* region_ = nullptr;
};

TEST_F(LedgerTest, GrantsUpToTheLimitAndNotOneUnitMore) {
  const uint32_t slot = claim(1);
  EXPECT_EQ(change_use(*region_, slot, 0, 100, 100), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, 1, 100), Change::kRefused);
  EXPECT_EQ(used(), 100u);
  EXPECT_EQ(change_use(*region_, slot, 0, -1, 100), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, 1, 100), Change::kDone);
}

TEST_F(LedgerTest, RefusesWhenTwoProcessesTogetherExceed) {
  const uint32_t a = claim(1), b = claim(2);
  EXPECT_EQ(change_use(*region_, a, 0, 60, 100), Change::kDone);
  EXPECT_EQ(change_use(*region_, b, 0, 60, 100), Change::kRefused);
  EXPECT_EQ(change_use(*region_, b, 0, 40, 100), Change::kDone);
  EXPECT_EQ(charged(a) + charged(b), used());
}

TEST_F(LedgerTest, WhatIsTooMuchForOneIntentIsTakenBackAsWell) {
  const uint32_t slot = claim(1);
  EXPECT_EQ(change_use(*region_, slot, 0, INT32_MAX, kNoLimit), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, INT32_MAX, kNoLimit), Change::kDone);
  reclaim(slot, 1);
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(charged(slot), 0u);
}

// A charge that its user forged must not keep others busy.
TEST_F(LedgerTest, AForgedChargeIsTakenBackInAMoment) {
  const uint32_t slot = claim(1);
  region_->slot[slot].device[0].charge.store(uint64_t{0xffffffff} << 32);
  reclaim(slot, 1);
  EXPECT_EQ(charged(slot), 0u);
}

TEST_F(LedgerTest, AnAmountThatWouldOverflowIsRefused) {
  const uint32_t slot = claim(1);
  EXPECT_EQ(change_use(*region_, slot, 0, INT32_MAX, kNoLimit), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, INT32_MAX, kNoLimit), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, INT32_MAX, kNoLimit), Change::kRefused);
}

TEST_F(LedgerTest, GivingBackMoreThanIsHeldStopsAtZero) {
  const uint32_t slot = claim(1);
  EXPECT_EQ(change_use(*region_, slot, 0, 5, kNoLimit), Change::kDone);
  EXPECT_EQ(change_use(*region_, slot, 0, -50, kNoLimit), Change::kDone);
  EXPECT_EQ(used(), 0u);
}

TEST_F(LedgerTest, ADeadProcessIsTakenBackFromEveryDevice) {
  const uint32_t a = claim(1), b = claim(2);
  for (uint32_t device = 0; device < abi::kMaxDevices; device++) {
    change_use(*region_, a, device, 10 + device, kNoLimit);
    change_use(*region_, b, device, 1, kNoLimit);
  }
  reclaim(a, 1);
  for (uint32_t device = 0; device < abi::kMaxDevices; device++) EXPECT_EQ(used(device), 1u);
  EXPECT_EQ(region_->slot[a].owner.load(), 0u);
}

TEST_F(LedgerTest, ReclaimLeavesASlotThatBelongsToSomebodyElse) {
  const uint32_t a = claim(1);
  change_use(*region_, a, 0, 10, kNoLimit);
  reclaim(a, 99);
  EXPECT_EQ(used(), 10u);
}

TEST_F(LedgerTest, AReusedSlotStartsEmptyAfterManyLives) {
  for (uint32_t pid = 1; pid < 200; pid++) {
    const uint32_t slot = claim(pid);
    EXPECT_EQ(slot, 0u);
    EXPECT_EQ(charged(slot), 0u);
    for (uint32_t i = 0; i < pid; i++) change_use(*region_, slot, 0, 3, kNoLimit);
    reclaim(slot, pid);
    EXPECT_EQ(used(), 0u);
  }
}

TEST_F(LedgerTest, SequencesMayWrap) {
  const uint32_t a = claim(1), b = claim(2);
  for (int i = 0; i < 200000; i++) change_use(*region_, a, 0, i % 2 == 0 ? 1 : -1, kNoLimit);
  change_use(*region_, b, 0, 7, kNoLimit);
  change_use(*region_, a, 0, 5, kNoLimit);
  reclaim(a, 1);
  EXPECT_EQ(used(), 7u);
}

// Where a process can die inside a change, step by step: what the words look like then.
TEST_F(LedgerTest, ADeathAfterTheIntentAloneLosesNothing) {
  const uint32_t a = claim(1);
  change_use(*region_, a, 0, 10, kNoLimit);
  auto& account = region_->slot[a].device[0];
  account.intent.store(uint64_t{90} << 32 | ((account.charge.load() + 1) & 0xffffffff));
  reclaim(a, 1);
  EXPECT_EQ(used(), 0u);
}

TEST_F(LedgerTest, ADeathBetweenTotalAndChargeIsSeenByTheTag) {
  const uint32_t a = claim(1);
  change_use(*region_, a, 0, 10, kNoLimit);
  auto& account = region_->slot[a].device[0];
  const uint64_t before = account.charge.load();
  change_use(*region_, a, 0, 90, kNoLimit);
  account.charge.store(before);
  reclaim(a, 1);
  EXPECT_EQ(used(), 0u);
}

TEST_F(LedgerTest, ADeathBetweenTotalAndChargeIsSeenAfterOthersWrote) {
  const uint32_t a = claim(1), b = claim(2);
  change_use(*region_, a, 0, 10, kNoLimit);
  auto& account = region_->slot[a].device[0];
  const uint64_t before = account.charge.load();
  change_use(*region_, a, 0, 90, kNoLimit);
  account.charge.store(before);
  for (int i = 0; i < 3; i++) change_use(*region_, b, 0, 1, kNoLimit);
  reclaim(a, 1);
  EXPECT_EQ(used(), 3u);
}

TEST_F(LedgerTest, ThreadsOfOneDeviceInSeveralSlotsNeverPassTheLimit) {
  constexpr uint64_t kLimit = 1000;
  std::vector<std::thread> threads;
  std::atomic<bool> passed{false};
  for (uint32_t t = 1; t <= 4; t++) {
    const uint32_t slot = claim(t);
    threads.emplace_back([this, slot, t, &passed] {
      std::mt19937 random(t);
      int64_t mine = 0;
      for (int i = 0; i < 20000; i++) {
        const int64_t amount = random() % 400;
        if (change_use(*region_, slot, 0, amount, kLimit) == Change::kDone) mine += amount;
        if (used() > kLimit) passed = true;
        if (random() % 2 == 0) {
          change_use(*region_, slot, 0, -mine, kLimit);
          mine = 0;
        }
      }
      change_use(*region_, slot, 0, -mine, kLimit);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_FALSE(passed);
  EXPECT_EQ(used(), 0u);
}

TEST_F(LedgerTest, KilledAtRandomInstantsNothingIsLostOrInvented) {
  constexpr int kWriters = 3, kRounds = 150;
  std::mt19937 random(1);
  const uint32_t steady = claim(999);
  change_use(*region_, steady, 0, 17, kNoLimit);
  for (int round = 0; round < kRounds; round++) {
    pid_t children[kWriters];
    for (pid_t& child : children) {
      child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        const auto self = static_cast<uint32_t>(getpid());
        const int slot =
            claim_slot(*region_, {.owner = pack_owner(self, self * 7), .pid_namespace = 1});
        for (uint32_t i = 0;; i++) change_use(*region_, slot, 0, i % 3 == 2 ? -8 : 4, kNoLimit);
      }
    }
    usleep(random() % 3000);
    for (pid_t child : children) kill(child, SIGKILL);
    for (pid_t child : children) waitpid(child, nullptr, 0);
    // Two at once take them back, as two refused processes would.
    std::thread other([this] { reclaim_all_but(999); });
    reclaim_all_but(999);
    other.join();
    ASSERT_EQ(used(), 17u) << "round " << round;
  }
}

TEST_F(LedgerTest, AClaimIsNotJudgedByWhatTheLastOwnerLeft) {
  const auto old_owner = pack_owner(5, 500), next_owner = pack_owner(6, 600);
  const int slot = claim_slot(*region_, {.owner = old_owner, .pid_namespace = 1, .image = 0x111});
  reclaim_slot(*region_, slot, old_owner);
  ASSERT_EQ(
      claim_slot(*region_,
                 {.owner = next_owner, .pid_namespace = 2, .time_namespace = 3, .image = 0x222}),
      slot);
  EXPECT_EQ(region_->slot[slot].owner, next_owner);
  EXPECT_EQ(region_->slot[slot].pid_namespace, 2u);
  EXPECT_EQ(region_->slot[slot].time_namespace, 3u);
  EXPECT_EQ(region_->slot[slot].image, 0x222u);
}

TEST_F(LedgerTest, ADeathThatAClockAheadNotedIsNotedAnew) {
  abi::RegionSlot& slot = region_->slot[claim(5)];
  const auto owner = slot.owner.load();
  EXPECT_EQ(note_death(slot, owner, 1000), 1000u);
  EXPECT_EQ(note_death(slot, owner, 1500), 1000u);
  EXPECT_EQ(note_death(slot, owner, 300), 300u);
  EXPECT_EQ(note_death(slot, owner, 400), 300u);
}

TEST_F(LedgerTest, ASlotWithoutMemoryBehindItIsNotTouched) {
  for (uint32_t i = 0; i < abi::kReservedSlots; i++) EXPECT_EQ(claim(i + 1), i);
  const auto nothing_there = [](const abi::RegionSlot&) { return false; };
  EXPECT_EQ(claim_slot(*region_, {.owner = pack_owner(99, 9), .pid_namespace = 1}, nothing_there),
            -1);
  EXPECT_EQ(region_->header.high_water.load(), abi::kReservedSlots);
}

TEST_F(LedgerTest, AHalfMadeObjectIsFreedWithItsMaker) {
  const uint32_t a = claim(1);
  const auto owner = pack_owner(1, 7);
  change_use(*region_, a, 0, 8, kNoLimit);
  ASSERT_EQ(make_object(*region_, 77, a, 0, 8, owner), 0);
  drop_object(*region_, 0, owner);
  region_->object[0].key.store(uint64_t{1} << 62 | owner);
  EXPECT_EQ(hold_object(*region_, 77, owner), -1);
  reclaim(a, 1);
  EXPECT_EQ(region_->object[0].key.load(), 0u);
}

TEST_F(LedgerTest, EveryLifeOfAProcessHasAnotherName) {
  EXPECT_NE(pack_owner(1, 7, 0), pack_owner(1, 7, 1));
  EXPECT_EQ(owner_life(pack_owner(1, 7, 63)), 63u);
  EXPECT_EQ(owner_start(pack_owner(1, uint64_t{1} << 40 | 7, 63)), 7u);
  EXPECT_EQ(owner_start(pack_claim(1, 77)), 0u);
  EXPECT_EQ(owner_namespace(region_->slot[0], pack_claim(1, 77)), 77u);
}

TEST_F(LedgerTest, AnExportIsChargedOnceUntilItsLastHolderLetsGo) {
  const uint32_t a = claim(1);
  const auto first = pack_owner(1, 7), second = pack_owner(2, 14);
  claim(2);
  change_use(*region_, a, 0, 64, kNoLimit);
  const int object = make_object(*region_, 77, a, 0, 64, first);
  ASSERT_GE(object, 0);
  EXPECT_EQ(used(), 64u);
  EXPECT_EQ(charged(a), 0u);
  EXPECT_EQ(hold_object(*region_, 77, second), object);
  EXPECT_FALSE(drop_object(*region_, object, first));
  EXPECT_EQ(used(), 64u);
  EXPECT_TRUE(drop_object(*region_, object, second));
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(hold_object(*region_, 77, second), -1);
}

TEST_F(LedgerTest, AnExportOutlivesItsExporterAndEndsWithItsImporter) {
  const uint32_t a = claim(1), b = claim(2);
  change_use(*region_, a, 0, 64, kNoLimit);
  make_object(*region_, 5, a, 0, 64, pack_owner(1, 7));
  hold_object(*region_, 5, pack_owner(2, 14));
  reclaim(a, 1);
  EXPECT_EQ(used(), 64u);
  reclaim(b, 2);
  EXPECT_EQ(used(), 0u);
}

TEST_F(LedgerTest, DevicesAreToldApartByTheirKeyAndNeverTwice) {
  EXPECT_EQ(region_device(*region_, 11), 0);
  EXPECT_EQ(region_device(*region_, 22), 1);
  EXPECT_EQ(region_device(*region_, 11), 0);
  for (uint64_t key = 100; key < 100 + abi::kMaxDevices - 2; key++) {
    EXPECT_GE(region_device(*region_, key), 2);
  }
  EXPECT_EQ(region_device(*region_, 9999), -1);
}

}  // namespace
}  // namespace softmig::policy
