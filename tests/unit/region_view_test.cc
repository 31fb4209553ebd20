#include "job/region_view.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>
#include <vector>

#include "child.h"
#include "job/region.h"
#include "policy/ledger.h"
#include "scratch.h"
#include "sys/proc.h"

namespace softmig::job {
namespace {

using testing::in_child_as;
using testing::Scratch;

constexpr uint32_t kUnits = 1000;

class Viewed : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(create_region_file(path_.c_str(), getuid(), getgid()), 0);
    const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    map_ = static_cast<abi::Region*>(
        mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    close(fd);
    ASSERT_NE(map_, MAP_FAILED);
  }
  void TearDown() override { munmap(map_, abi::kRegionSize); }

  // A process with `units` of the first device.
  int add(uint32_t pid, uint64_t start, uint64_t pid_namespace, uint32_t units) {
    const int device = policy::region_device(*map_, 77);
    const int slot = policy::claim_slot(*map_, {.owner = policy::pack_owner(pid, start),
                                                .pid_namespace = pid_namespace,
                                                .time_namespace = sys::time_namespace(),
                                                .uid = 1000});
    EXPECT_EQ(policy::change_use(*map_, slot, device, units, policy::kNoLimit),
              policy::Change::kDone);
    return slot;
  }
  int add_me(uint32_t units) {
    return add(getpid(), sys::own_start_ticks(), sys::pid_namespace(), units);
  }

  ViewStatus view(const char* proc = "/proc", int capacity = 64) {
    process_.assign(static_cast<size_t>(capacity), {});
    return view_region(path_.c_str(), proc, &view_, process_.data(), capacity);
  }

  const Scratch scratch_;
  const std::string path_ = scratch_.path("region");
  abi::Region* map_ = nullptr;
  RegionView view_;
  std::vector<ViewedProcess> process_;
};

TEST_F(Viewed, AnEmptyRegionHasNothing) {
  EXPECT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(view_.process_count, 0);
  EXPECT_FALSE(view_.more);
  EXPECT_NE(view_.created_ns, 0u);
  for (const ViewedDevice& device : view_.device) EXPECT_EQ(device.key, 0u);
}

TEST_F(Viewed, ShowsDevicesAndProcesses) {
  const int slot = add_me(kUnits);
  map_->slot[slot].device[0].parts = 300;
  map_->header.device[0].refusals = 5;
  ASSERT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(view_.device[0].key, 77u);
  EXPECT_EQ(view_.device[0].used, kUnits * abi::kUnit);
  EXPECT_EQ(view_.device[0].peak, kUnits * abi::kUnit);
  EXPECT_EQ(view_.device[0].refusals, 5u);
  ASSERT_EQ(view_.process_count, 1);
  EXPECT_EQ(process_[0].pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(process_[0].uid, 1000u);
  EXPECT_FALSE(process_[0].foreign);
  EXPECT_EQ(process_[0].bytes[0], kUnits * abi::kUnit);
  EXPECT_EQ(process_[0].context_bytes[0], 300 * abi::kUnit);
  EXPECT_EQ(process_[0].bytes[1], 0u);
}

TEST_F(Viewed, ShowsWhatWasDoneWithTheShareOfGpuTime) {
  const int slot = add_me(8);
  abi::RegionShare& share = map_->share[0];
  share.gpu_ns = 5'000'000'000;
  share.waited_ns = 7;
  share.launches = 11;
  share.graph_launches = 13;
  ASSERT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(view_.device[0].gpu_ns, 5'000'000'000u);
  EXPECT_EQ(view_.device[0].waited_ns, 7u);
  EXPECT_EQ(view_.device[0].launches, 11u);
  EXPECT_EQ(view_.device[0].graph_launches, 13u);
  // What a process did goes on counting when it is dead, and when its slot is another's.
  map_->slot[slot].device[0].launches = 100;
  map_->slot[slot].device[0].gpu_ns = 1;
  for (int round = 0; round < 2; round++) {
    ASSERT_EQ(view(), ViewStatus::kOk);
    EXPECT_EQ(view_.device[0].launches, 111u);
    EXPECT_EQ(view_.device[0].gpu_ns, 5'000'000'001u);
    EXPECT_EQ(process_[0].compute[0].launches, round == 0 ? 100u : 0u);
    policy::keep_counters_of_the_dead(*map_, static_cast<uint32_t>(slot));
  }
}

TEST_F(Viewed, ShowsWhatEachProcessDidWithGpuTime) {
  add_me(8);
  const int slot = add_me(8);
  abi::RegionAccount& account = map_->slot[slot].device[0];
  account.gpu_ns = 3'000'000'000;
  account.waited_ns = 17;
  account.launches = 19;
  account.graph_launches = 23;
  map_->share[0].paid_until_ns = 29;
  map_->share[0].clock_ns = 31;
  ASSERT_EQ(view(), ViewStatus::kOk);
  ASSERT_EQ(view_.process_count, 2);
  EXPECT_EQ(view_.high_water, 2u);
  EXPECT_EQ(process_[0].slot, 0u);
  EXPECT_EQ(process_[1].slot, 1u);
  EXPECT_EQ(process_[0].compute[0].launches, 0u);
  EXPECT_EQ(process_[1].compute[0].gpu_ns, 3'000'000'000u);
  EXPECT_EQ(process_[1].compute[0].waited_ns, 17u);
  EXPECT_EQ(process_[1].compute[0].launches, 19u);
  EXPECT_EQ(process_[1].compute[0].graph_launches, 23u);
  EXPECT_EQ(process_[1].compute[1].launches, 0u);
  EXPECT_EQ(view_.device[0].paid_until_ns, 29u);
  EXPECT_EQ(view_.device[0].clock_ns, 31u);
}

TEST_F(Viewed, TheWordOfAChargeChangesWithEveryChange) {
  const int slot = add_me(kUnits);
  ASSERT_EQ(view(), ViewStatus::kOk);
  const abi::PackedCharge before = process_[0].charge[0];
  policy::change_use(*map_, slot, 0, 1, policy::kNoLimit);
  policy::change_use(*map_, slot, 0, -1, policy::kNoLimit);
  ASSERT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(process_[0].bytes[0], kUnits * abi::kUnit);
  EXPECT_NE(process_[0].charge[0], before);
}

TEST_F(Viewed, LeavesOutTheDeadIfItIsToldWhereProcIs) {
  add_me(1);
  add(getpid(), sys::own_start_ticks() + 1, sys::pid_namespace(), 1);  // an earlier one of this pid
  const pid_t child = fork();
  if (child == 0) _exit(0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  add(child, 1, sys::pid_namespace(), 1);
  ASSERT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(view_.process_count, 1);
  ASSERT_EQ(view(nullptr), ViewStatus::kOk);
  EXPECT_EQ(view_.process_count, 3);
}

TEST_F(Viewed, KeepsProcessesOfOtherPidNamespacesAndSaysSo) {
  add(4194303, 1, sys::pid_namespace() + 1, 1);
  ASSERT_EQ(view(), ViewStatus::kOk);
  ASSERT_EQ(view_.process_count, 1);
  EXPECT_TRUE(process_[0].foreign);
}

TEST_F(Viewed, ExportedMemoryIsCountedByDevice) {
  const int slot = add_me(kUnits);
  ASSERT_GE(policy::make_object(*map_, 0x1234, slot, 0, 400, policy::pack_owner(getpid(), 1)), 0);
  ASSERT_EQ(view(), ViewStatus::kOk);
  EXPECT_EQ(view_.device[0].exported, 400 * abi::kUnit);
  EXPECT_EQ(process_[0].bytes[0], (kUnits - 400) * abi::kUnit);
}

TEST_F(Viewed, WritesNoMoreProcessesThanFit) {
  for (uint32_t i = 1; i <= 20; i++) add(i, 1, sys::pid_namespace() + 1, 1);
  ASSERT_EQ(view("/proc", 19), ViewStatus::kOk);
  EXPECT_EQ(view_.process_count, 19);
  EXPECT_TRUE(view_.more);
  ASSERT_EQ(view("/proc", 20), ViewStatus::kOk);
  EXPECT_EQ(view_.process_count, 20);
  EXPECT_FALSE(view_.more);
  ASSERT_EQ(view_region(path_.c_str(), "/proc", &view_, nullptr, 0), ViewStatus::kOk);
  EXPECT_TRUE(view_.more);
}

TEST_F(Viewed, OnlyThoseThatAreWantedAreListed) {
  for (uint32_t pid = 1; pid <= 20; pid++) {
    add(pid, 1, sys::pid_namespace() + (pid > 10 ? 1 : 0), 1);
  }
  const uint32_t wanted = 7;
  SlotFilter filter = {
      [](const void* pid, uint32_t found) { return *static_cast<const uint32_t*>(pid) == found; },
      &wanted, 3};
  process_.assign(64, {});
  ASSERT_EQ(view_region(path_.c_str(), nullptr, &view_, process_.data(), 64, filter),
            ViewStatus::kOk);
  ASSERT_EQ(view_.process_count, 4);
  EXPECT_EQ(process_[0].pid, 7U);
  for (int i = 1; i < 4; i++) EXPECT_TRUE(process_[i].foreign);
  EXPECT_EQ(view_.device[0].used, 20 * abi::kUnit);
}

TEST_F(Viewed, EveryChangeOfAChargeIsToBeSeen) {
  const int first = add(1, 1, sys::pid_namespace(), 10),
            second = add(2, 1, sys::pid_namespace(), 5);
  const auto fingerprint = [&] {
    EXPECT_EQ(view(nullptr), ViewStatus::kOk);
    return view_.device[0].fingerprint;
  };
  const uint64_t before = fingerprint();
  EXPECT_EQ(fingerprint(), before);
  policy::change_use(*map_, first, 0, 3, policy::kNoLimit);
  const uint64_t more = fingerprint();
  EXPECT_NE(more, before);
  policy::change_use(*map_, first, 0, -3, policy::kNoLimit);
  const uint64_t back = fingerprint();  // the same amount, and yet it moved
  EXPECT_NE(back, before);
  EXPECT_NE(back, more);
  policy::change_use(*map_, second, 0, 1, policy::kNoLimit);
  EXPECT_NE(fingerprint(), back);
}

TEST_F(Viewed, WhatIsNoRegionIsRefused) {
  const auto status_of = [&](const std::string& path) {
    return view_region(path.c_str(), "/proc", &view_, nullptr, 0);
  };
  EXPECT_EQ(status_of(scratch_.path("nowhere")), ViewStatus::kMissing);
  EXPECT_EQ(status_of(path_ + "/below"), ViewStatus::kMissing);
  EXPECT_EQ(status_of(scratch_.path()), ViewStatus::kForeign);
  EXPECT_EQ(status_of(scratch_.write("text", "text")), ViewStatus::kForeign);
  ASSERT_EQ(symlink(path_.c_str(), scratch_.path("link").c_str()), 0);
  EXPECT_EQ(status_of(scratch_.path("link")), ViewStatus::kForbidden);
  ASSERT_EQ(mkfifo(scratch_.path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(status_of(scratch_.path("fifo")), ViewStatus::kForeign);
}

TEST_F(Viewed, OtherMagicVersionOrSizesAreRefused) {
  abi::RegionHeader& header = map_->header;
  const auto refused_with = [&](auto& field) {
    field++;
    const bool refused = view() == ViewStatus::kForeign;
    field--;
    return refused;
  };
  EXPECT_TRUE(refused_with(header.magic));
  EXPECT_TRUE(refused_with(header.version));
  EXPECT_TRUE(refused_with(header.header_size));
  EXPECT_TRUE(refused_with(header.slot_size));
  EXPECT_TRUE(refused_with(header.max_slots));
  EXPECT_TRUE(refused_with(header.max_devices));
  EXPECT_EQ(view(), ViewStatus::kOk);
}

TEST_F(Viewed, ACutFileIsNoRegion) {
  ASSERT_EQ(truncate(path_.c_str(), sizeof(abi::RegionHeader)), 0);
  EXPECT_EQ(view(), ViewStatus::kForeign);
  ASSERT_EQ(truncate(path_.c_str(), 0), 0);
  EXPECT_EQ(view(), ViewStatus::kForeign);
}

TEST_F(Viewed, AnotherUserIsToldThatItIsForbidden) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
  EXPECT_EQ(in_child_as(testing::kNobody, [&] { return view() == ViewStatus::kForbidden ? 0 : 1; }),
            0);
}

TEST_F(Viewed, WhateverAHostileUserWritesStaysInBounds) {
  map_->header.high_water = 0xffffffff;
  std::mt19937_64 random(1);
  auto* words = reinterpret_cast<uint64_t*>(&map_->header.device);
  auto* objects = reinterpret_cast<uint64_t*>(map_->object);
  auto* slots = reinterpret_cast<uint64_t*>(map_->slot);
  for (size_t i = 0; i < sizeof map_->header.device / 8; i++) words[i] = random();
  for (size_t i = 0; i < sizeof map_->object / 8; i++) objects[i] = random();
  for (size_t i = 0; i < 100 * sizeof(abi::RegionSlot) / 8; i++) slots[i] = random();
  ASSERT_EQ(view("/proc", 50), ViewStatus::kOk);
  constexpr uint64_t kMost = uint64_t{1} << 44;
  for (const ViewedDevice& device : view_.device) {
    EXPECT_LE(device.used, kMost);
    EXPECT_LE(device.peak, kMost);
    EXPECT_LE(device.exported, kMost * abi::kMaxObjects);
  }
  EXPECT_LE(view_.process_count, 50);
  for (int i = 0; i < view_.process_count; i++) {
    EXPECT_GT(process_[i].pid, 0u);
    EXPECT_LT(process_[i].pid, 1u << 22);
    for (uint32_t d = 0; d < abi::kMaxDevices; d++) {
      EXPECT_LE(process_[i].bytes[d], kMost);
      EXPECT_LE(process_[i].context_bytes[d], process_[i].bytes[d]);
    }
  }
}

}  // namespace
}  // namespace softmig::job
