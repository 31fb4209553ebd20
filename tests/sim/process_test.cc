// Processes that come and go: killed at any instant, replaced by exec, forked; several users.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

using ProcessTest = SimTest;

// Allocates and frees by many routes until it is killed.
int churn(Child& parent) {
  if (start() != CUDA_SUCCESS) return 1;
  parent.say(1);
  std::mt19937 random(static_cast<unsigned int>(getpid()));
  CUstream stream = nullptr;
  cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  for (;;) {
    CUdeviceptr address = 0;
    CUmemGenericAllocationHandle handle = 0;
    CUcontext context = nullptr;
    CUipcMemHandle ipc{};
    int fd = -1;
    switch (random() % 5) {
      case 0:
        if (cuMemAlloc_v2(&address, random() % (8 * kMiB) + 1) == CUDA_SUCCESS && random() % 2 == 0)
          cuMemFree_v2(address);
        break;
      case 1:
        if (cuMemAllocAsync(&address, random() % (40 * kMiB) + 1, stream) == CUDA_SUCCESS)
          cuMemFreeAsync(address, stream);
        cuStreamSynchronize(stream);
        break;
      case 2:
        if (cuMemCreate(&handle, 4 * kMiB, &prop, 0) != CUDA_SUCCESS) break;
        if (cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                         0) == CUDA_SUCCESS)
          close(fd);
        cuMemRelease(handle);
        break;
      case 3:
        if (cuMemAlloc_v2(&address, 3 * kMiB) != CUDA_SUCCESS) break;
        cuIpcGetMemHandle(&ipc, address);
        cuMemFree_v2(address);
        break;
      default:
        if (cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS) cuCtxDestroy_v2(context);
        break;
    }
  }
}

TEST_F(ProcessTest, KilledAtAnyInstantTheyLeaveNothing) {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < 3; ++i) children.push_back(std::make_unique<Child>(churn));
    for (auto& child : children) ASSERT_EQ(child->hear(), 1u);
    sleep_ms(static_cast<double>(random() % 3000) / 1000);
    for (auto& child : children) child->kill();
    ASSERT_EQ(used(), 0) << "round " << round;
    ASSERT_EQ(process_count(), 0u);
  }
}

TEST_F(ProcessTest, TheOthersGoOnWhenTheHolderOfTheLockDies) {
  Child survivor([](Child& parent) {
    EXPECT_CUDA(start());
    parent.say(1);
    for (uint64_t left = parent.hear(); left > 0; --left) {
      CUdeviceptr address = 0;
      EXPECT_CUDA(cuMemAlloc_v2(&address, 4 * kMiB));
      EXPECT_CUDA(cuMemFree_v2(address));
    }
    parent.say(2);
    parent.hear();
    return 0;
  });
  ASSERT_EQ(survivor.hear(), 1u);
  survivor.say(300000);
  for (int i = 0; i < 40; ++i) {
    Child victim(churn);
    ASSERT_EQ(victim.hear(), 1u);
    sleep_ms(1);
    victim.kill();
  }
  ASSERT_EQ(survivor.hear(), 2u);
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
  EXPECT_EQ(listed(survivor.pid()), kContextListed);
  survivor.say(1);
  EXPECT_EQ(survivor.wait(), 0);
}

TEST_F(ProcessTest, ExecFreesEverything) {
  Child child([](Child& parent) {
    EXPECT_CUDA(start());
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAlloc_v2(&address, 100 * kMiB));
    parent.say(1);
    parent.hear();
    execl("/bin/sleep", "sleep", "30", nullptr);
    return 1;
  });
  ASSERT_EQ(child.hear(), 1u);
  EXPECT_EQ(listed(child.pid()), kContextListed + 100);
  child.say(1);
  for (int i = 0; i < 2000 && process_count() != 0; ++i) sleep_ms(1);
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(kill(child.pid(), 0), 0) << "the process itself lives";
}

TEST_F(ProcessTest, ExecFreesEverythingThoughAForkedChildLives) {
  Child child([](Child& parent) {
    EXPECT_CUDA(start());
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      pause();
      _exit(0);
    }
    parent.say(static_cast<uint64_t>(grandchild));
    parent.hear();
    execl("/bin/sleep", "sleep", "30", nullptr);
    return 1;
  });
  const auto grandchild = static_cast<pid_t>(child.hear());
  EXPECT_EQ(process_count(), 1u);
  child.say(1);
  for (int i = 0; i < 2000 && process_count() != 0; ++i) sleep_ms(1);
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(kill(grandchild, SIGKILL), 0);
}

TEST_F(ProcessTest, AProgramThatClosesAllItsDescriptorsKeepsItsMemory) {
  Child child([](Child& parent) {
    EXPECT_CUDA(start());
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAlloc_v2(&address, 100 * kMiB));
    for (int fd = 3; fd < 100; ++fd) {
      struct stat info {};
      if (fstat(fd, &info) == 0 && !S_ISSOCK(info.st_mode)) close(fd);
    }
    parent.say(1);
    parent.hear();
    EXPECT_CUDA(cuMemAlloc_v2(&address, 100 * kMiB));
    parent.say(2);
    parent.hear();
    return 0;
  });
  ASSERT_EQ(child.hear(), 1u);
  EXPECT_EQ(listed(child.pid()), kContextListed + 100);
  child.say(1);
  ASSERT_EQ(child.hear(), 2u);
  EXPECT_EQ(listed(child.pid()), kContextListed + 200);
  child.say(1);
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(ProcessTest, AForkedChildOwnsNothingAndKeepsNothingAlive) {
  Child holder([](Child& parent) {
    EXPECT_CUDA(start());
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAlloc_v2(&address, 100 * kMiB));
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      CUdeviceptr other = 0;
      const bool refused = cuMemAlloc_v2(&other, 1) == CUDA_ERROR_NOT_INITIALIZED &&
                           cuInit(0) == CUDA_ERROR_NOT_INITIALIZED &&
                           cuMemFree_v2(address) == CUDA_ERROR_NOT_INITIALIZED;
      parent.say(refused ? 1 : 0);
      pause();
      _exit(0);
    }
    parent.say(static_cast<uint64_t>(grandchild));
    pause();
    return 0;
  });
  const uint64_t one = holder.hear(), two = holder.hear();
  EXPECT_EQ(std::min(one, two), 1u) << "the driver does not work in a forked child";
  EXPECT_EQ(listed(holder.pid()), kContextListed + 100);
  holder.kill();
  EXPECT_EQ(used(), 0) << "though its child lives";
  kill(static_cast<pid_t>(std::max(one, two)), SIGKILL);
}

TEST_F(ProcessTest, AForkBeforeInitIsAProgramOfItsOwn) {
  Child first([](Child& parent) {
    EXPECT_CUDA(start());
    parent.say(1);
    parent.hear();
    return 0;
  });
  ASSERT_EQ(first.hear(), 1u);
  ASSERT_CUDA(start());
  EXPECT_EQ(process_count(), 2u);
  EXPECT_EQ(used(), kBaseUsed + 2 * kContextUsed);
  first.say(1);
  EXPECT_EQ(first.wait(), 0);
  EXPECT_EQ(process_count(), 1u);
}

TEST_F(ProcessTest, UsersShareOneFile) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(used(), 0);  // makes the file
  ASSERT_EQ(chmod(state().substr(0, state().rfind('/')).c_str(), 0755), 0);
  struct stat info {};
  ASSERT_EQ(stat(state().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666u);
  const auto as = [](uid_t uid) {
    return [uid](Child& parent) {
      if (setresuid(uid, uid, uid) != 0) return 2;
      EXPECT_CUDA(start());
      CUdeviceptr address = 0;
      EXPECT_CUDA(cuMemAlloc_v2(&address, 10 * kMiB));
      parent.say(1);
      parent.hear();
      return 0;
    };
  };
  Child one(as(65534)), two(as(1234));
  ASSERT_EQ(one.hear(), 1u);
  ASSERT_EQ(two.hear(), 1u);
  EXPECT_EQ(process_count(), 2u);
  one.kill();
  two.say(1);
  EXPECT_EQ(two.wait(), 0);
  EXPECT_EQ(used(), 0);
}

class SmallCardProcessTest : public SimTest {
 protected:
  SmallCardProcessTest() : SimTest("1x4G,reserved=32M") {}
};

TEST_F(SmallCardProcessTest, WhoIsRefusedLooksForTheDeadFirst) {
  Child holder([](Child& parent) {
    EXPECT_CUDA(start());
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAlloc_v2(&address, 2 * kGiB));
    parent.say(1);
    pause();
    return 0;
  });
  ASSERT_EQ(holder.hear(), 1u);
  ASSERT_CUDA(start());
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, 2 * kGiB), CUDA_ERROR_OUT_OF_MEMORY);
  holder.kill();
  const double begin = now_ms();
  EXPECT_CUDA(cuMemAlloc_v2(&address, 2 * kGiB));
  EXPECT_LT(now_ms() - begin, 10);
}

TEST_F(SmallCardProcessTest, ARaceFillsTheCardExactly) {
  constexpr int kProcesses = 5;
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(std::make_unique<Child>([](Child& parent) {
      EXPECT_CUDA(start());
      parent.say(1);
      parent.hear();
      uint64_t pieces = 0;
      CUdeviceptr address = 0;
      while (cuMemAlloc_v2(&address, 16 * kMiB) == CUDA_SUCCESS) ++pieces;
      parent.say(pieces);
      parent.hear();
      return 0;
    }));
  }
  for (auto& child : children) ASSERT_EQ(child->hear(), 1u);
  for (auto& child : children) child->say(1);
  uint64_t pieces = 0;
  for (auto& child : children) pieces += child->hear();
  const double left = 4096 - 32 - kBaseUsed - kProcesses * kContextUsed;
  EXPECT_EQ(pieces, static_cast<uint64_t>(left / 16));
  EXPECT_EQ(used(), kBaseUsed + kProcesses * kContextUsed + static_cast<double>(pieces) * 16);
}

TEST_F(ProcessTest, ResetForgetsAndShowTells) {
  ASSERT_CUDA(start());
  const std::string show = std::string(SIM_SHOW) + " show > " + file("out");
  ASSERT_EQ(system(show.c_str()), 0);
  FILE* out = fopen(file("out").c_str(), "r");
  ASSERT_NE(out, nullptr);
  char text[4096] = {};
  const size_t length = fread(text, 1, sizeof text - 1, out);
  fclose(out);
  const std::string shown(text, length);
  EXPECT_NE(shown.find("device 0 GPU-"), std::string::npos) << shown;
  EXPECT_NE(shown.find("process " + std::to_string(getpid())), std::string::npos) << shown;
  EXPECT_NE(shown.find("listed 518.000"), std::string::npos) << shown;
  ASSERT_EQ(system((std::string(SIM_SHOW) + " reset").c_str()), 0);
  struct stat info {};
  EXPECT_NE(stat(state().c_str(), &info), 0);
  CUdeviceptr address = 0;
  EXPECT_CUDA(cuMemAlloc_v2(&address, 10 * kMiB)) << "who has the old state goes on with it";
  size_t free_bytes = 0, total = 0;
  EXPECT_CUDA(cuMemGetInfo_v2(&free_bytes, &total));
  EXPECT_EQ(static_cast<double>(total - free_bytes) / kMiB, kBaseUsed + kContextUsed + 10);
}

}  // namespace
}  // namespace softmig::sim_test
