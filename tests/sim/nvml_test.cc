// NVML's own contract: sizes of lists, versions, figures.
#include <cstring>
#include <string>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

class NvmlTest : public SimTest {
 protected:
  explicit NvmlTest(const std::string& geometry = "1x80G:h100") : SimTest(geometry) {}
  void SetUp() override {
    ASSERT_EQ(nvmlInit_v2(), NVML_SUCCESS);
    ASSERT_EQ(nvmlDeviceGetHandleByIndex_v2(0, &card_), NVML_SUCCESS);
  }
  nvmlDevice_t card_ = nullptr;
};

TEST_F(NvmlTest, ListsSayHowLargeTheyMustBe) {
  unsigned int count = 0;
  EXPECT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, &count, nullptr), NVML_SUCCESS)
      << "none: no room needed";
  EXPECT_EQ(count, 0u);
  ASSERT_CUDA(start());
  EXPECT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, &count, nullptr),
            NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(count, 1u);
  count = 0;
  EXPECT_EQ(nvmlDeviceGetComputeRunningProcesses_v2(card_, &count, nullptr),
            NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(count, 1u);
  count = 5;
  EXPECT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, &count, nullptr),
            NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, nullptr, nullptr),
            NVML_ERROR_INVALID_ARGUMENT);
  struct {
    nvmlProcessInfo_v1_t one;
    uint64_t guard;
  } first{{}, 0x1234};
  count = 1;
  ASSERT_EQ(nvmlDeviceGetComputeRunningProcesses(card_, &count, &first.one), NVML_SUCCESS);
  EXPECT_EQ(first.one.pid, static_cast<unsigned int>(getpid()));
  EXPECT_EQ(first.one.usedGpuMemory, 518 * kMiB);
  EXPECT_EQ(first.guard, 0x1234u) << "the first version has two fields";
  nvmlProcessInfo_t third[4] = {};
  count = 4;
  ASSERT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, &count, third), NVML_SUCCESS);
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(third[0].gpuInstanceId, ~0u);
  count = 4;
  EXPECT_EQ(nvmlDeviceGetGraphicsRunningProcesses_v3(card_, &count, third), NVML_SUCCESS);
  EXPECT_EQ(count, 0u);
  count = 0;
  EXPECT_EQ(nvmlDeviceGetMPSComputeRunningProcesses_v3(card_, &count, nullptr), NVML_SUCCESS);
}

TEST_F(NvmlTest, TheDetailListHasAVersion) {
  ASSERT_CUDA(start());
  nvmlProcessDetailList_t list{};
  EXPECT_EQ(nvmlDeviceGetRunningProcessDetailList(card_, &list),
            NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  list.version = nvmlProcessDetailList_v1;
  EXPECT_EQ(nvmlDeviceGetRunningProcessDetailList(card_, &list), NVML_ERROR_INSUFFICIENT_SIZE);
  ASSERT_EQ(list.numProcArrayEntries, 1u);
  nvmlProcessDetail_v1_t entry{};
  list.procArray = &entry;
  ASSERT_EQ(nvmlDeviceGetRunningProcessDetailList(card_, &list), NVML_SUCCESS);
  EXPECT_EQ(entry.pid, static_cast<unsigned int>(getpid()));
  EXPECT_EQ(entry.usedGpuMemory, 518 * kMiB);
  list.mode = 1;
  ASSERT_EQ(nvmlDeviceGetRunningProcessDetailList(card_, &list), NVML_SUCCESS);
  EXPECT_EQ(list.numProcArrayEntries, 0u);
}

TEST_F(NvmlTest, BothMemoryVersionsAgree) {
  ASSERT_CUDA(start());
  nvmlMemory_t one{};
  nvmlMemory_v2_t two{};
  ASSERT_EQ(nvmlDeviceGetMemoryInfo(card_, &one), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetMemoryInfo_v2(card_, &two), NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  two.version = nvmlMemory_v2;
  ASSERT_EQ(nvmlDeviceGetMemoryInfo_v2(card_, &two), NVML_SUCCESS);
  EXPECT_EQ(one.total, 80 * kGiB);
  EXPECT_EQ(two.total, one.total);
  EXPECT_EQ(two.free, one.free);
  EXPECT_EQ(two.reserved, 640 * kMiB);
  EXPECT_EQ(one.used, two.used + two.reserved)
      << "the first version counts what is reserved as used";
  EXPECT_EQ(one.used + one.free, one.total);
}

TEST_F(NvmlTest, UtilisationIsThatOfTheKernels) {
  unsigned int count = 0;
  nvmlUtilization_t rates{};
  EXPECT_EQ(nvmlDeviceGetProcessUtilization(card_, nullptr, &count, 0),
            NVML_ERROR_INSUFFICIENT_SIZE);
  ASSERT_GE(count, 1u);
  std::vector<nvmlProcessUtilizationSample_t> samples(count);
  EXPECT_EQ(nvmlDeviceGetProcessUtilization(card_, samples.data(), &count, 0),
            NVML_ERROR_NOT_FOUND);
  ASSERT_CUDA(start());
  CUmodule module = nullptr;
  CUfunction spin = nullptr;
  ASSERT_CUDA(cuModuleLoadData(&module, ptx_with_array(4).c_str()));
  ASSERT_CUDA(cuModuleGetFunction(&spin, module, "spin_us"));
  unsigned int us = 5000000;
  void* params[] = {&us};
  ASSERT_EQ(nvmlDeviceGetUtilizationRates(card_, &rates), NVML_SUCCESS);
  EXPECT_EQ(rates.gpu, 0u);
  ASSERT_CUDA(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr));
  sleep_ms(450);  // two samples and a bit
  ASSERT_EQ(nvmlDeviceGetUtilizationRates(card_, &rates), NVML_SUCCESS);
  EXPECT_EQ(rates.gpu, 100u);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const auto since = static_cast<unsigned long long>(now.tv_sec) * 1000000 +
                     static_cast<unsigned long long>(now.tv_nsec) / 1000 - 210000;
  count = static_cast<unsigned int>(samples.size());
  ASSERT_EQ(nvmlDeviceGetProcessUtilization(card_, samples.data(), &count, since), NVML_SUCCESS);
  ASSERT_EQ(count, 1u);
  EXPECT_EQ(samples[0].pid, static_cast<unsigned int>(getpid()));
  EXPECT_GE(samples[0].smUtil, 90u);
  EXPECT_GT(samples[0].timeStamp, since);
  count = static_cast<unsigned int>(samples.size());
  EXPECT_EQ(nvmlDeviceGetProcessUtilization(card_, samples.data(), &count,
                                            samples[0].timeStamp + 10000000),
            NVML_ERROR_NOT_FOUND);
  nvmlProcessesUtilizationInfo_t info{};
  info.version = nvmlProcessesUtilizationInfo_v1;
  EXPECT_EQ(nvmlDeviceGetProcessesUtilizationInfo(card_, &info), NVML_ERROR_INSUFFICIENT_SIZE);
  std::vector<nvmlProcessUtilizationInfo_v1_t> entries(info.processSamplesCount);
  info.procUtilArray = entries.data();
  info.lastSeenTimeStamp = since;
  ASSERT_EQ(nvmlDeviceGetProcessesUtilizationInfo(card_, &info), NVML_SUCCESS);
  EXPECT_EQ(info.processSamplesCount, 1u);
  EXPECT_EQ(entries[0].pid, static_cast<unsigned int>(getpid()));
}

TEST_F(NvmlTest, DevicesAreFound) {
  char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE] = {}, name[NVML_DEVICE_NAME_V2_BUFFER_SIZE] = {},
       small[4] = {};
  nvmlDevice_t again = nullptr;
  nvmlPciInfo_t pci{};
  unsigned int count = 0;
  EXPECT_EQ(nvmlDeviceGetCount_v2(&count), NVML_SUCCESS);
  EXPECT_EQ(count, 1u);
  ASSERT_EQ(nvmlDeviceGetUUID(card_, uuid, sizeof uuid), NVML_SUCCESS);
  EXPECT_EQ(strlen(uuid), 40u);
  EXPECT_EQ(nvmlDeviceGetUUID(card_, small, sizeof small), NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(nvmlDeviceGetHandleByUUID(uuid, &again), NVML_SUCCESS);
  EXPECT_EQ(again, card_);
  EXPECT_EQ(nvmlDeviceGetHandleByUUID("GPU-1", &again), NVML_ERROR_NOT_FOUND);
  EXPECT_EQ(nvmlDeviceGetHandleByIndex_v2(1, &again), NVML_ERROR_INVALID_ARGUMENT);
  ASSERT_EQ(nvmlDeviceGetPciInfo_v3(card_, &pci), NVML_SUCCESS);
  EXPECT_STREQ(pci.busId, "00000000:1B:00.0");
  EXPECT_EQ(nvmlDeviceGetHandleByPciBusId_v2("0000:1b:00.0", &again), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetHandleByPciBusId_v2("0000:1c:00.0", &again), NVML_ERROR_NOT_FOUND);
  ASSERT_EQ(nvmlDeviceGetName(card_, name, sizeof name), NVML_SUCCESS);
  EXPECT_STREQ(name, "NVIDIA H100 80GB HBM3");
  unsigned int current = 9, pending = 9;
  EXPECT_EQ(nvmlDeviceGetMigMode(card_, &current, &pending), NVML_SUCCESS);
  EXPECT_EQ(current, 0u);
  EXPECT_STREQ(nvmlErrorString(NVML_ERROR_INSUFFICIENT_SIZE), "Insufficient Size");
}

TEST_F(NvmlTest, ItMustBeStartedAndIsCounted) {
  unsigned int count = 0;
  ASSERT_EQ(nvmlInit_v2(), NVML_SUCCESS);
  ASSERT_EQ(nvmlShutdown(), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetCount_v2(&count), NVML_SUCCESS);
  ASSERT_EQ(nvmlShutdown(), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetCount_v2(&count), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(nvmlShutdown(), NVML_ERROR_UNINITIALIZED);
  ASSERT_EQ(nvmlInit_v2(), NVML_SUCCESS);
}

TEST_F(NvmlTest, AccountingIsOffUnlessAsked) {
  nvmlEnableState_t mode = NVML_FEATURE_ENABLED;
  unsigned int count = 0;
  ASSERT_EQ(nvmlDeviceGetAccountingMode(card_, &mode), NVML_SUCCESS);
  EXPECT_EQ(mode, NVML_FEATURE_DISABLED);
  EXPECT_EQ(nvmlDeviceGetAccountingPids(card_, &count, nullptr), NVML_ERROR_NOT_SUPPORTED);
}

class UnknownTest : public NvmlTest {
 protected:
  UnknownTest() : NvmlTest("1x8G,unknown=1") {}
};

TEST_F(UnknownTest, TheUseOfAProcessMayBeUnknown) {
  ASSERT_CUDA(start());
  nvmlProcessInfo_t process{};
  unsigned int count = 1;
  ASSERT_EQ(nvmlDeviceGetComputeRunningProcesses_v3(card_, &count, &process), NVML_SUCCESS);
  EXPECT_EQ(process.usedGpuMemory, static_cast<unsigned long long>(NVML_VALUE_NOT_AVAILABLE));
}

class AccountingTest : public NvmlTest {
 protected:
  AccountingTest() : NvmlTest("1x8G,accounting=1") {}
};

TEST_F(AccountingTest, ItKnowsTheHighestUse) {
  ASSERT_CUDA(start());
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&address, 100 * kMiB));
  ASSERT_CUDA(cuMemFree_v2(address));
  unsigned int count = 0, pid = 0;
  EXPECT_EQ(nvmlDeviceGetAccountingPids(card_, &count, nullptr), NVML_ERROR_INSUFFICIENT_SIZE);
  ASSERT_EQ(nvmlDeviceGetAccountingPids(card_, &count, &pid), NVML_SUCCESS);
  EXPECT_EQ(pid, static_cast<unsigned int>(getpid()));
  nvmlAccountingStats_t stats{};
  ASSERT_EQ(nvmlDeviceGetAccountingStats(card_, pid, &stats), NVML_SUCCESS);
  EXPECT_EQ(stats.maxMemoryUsage, 618 * kMiB);
  EXPECT_EQ(nvmlDeviceGetAccountingStats(card_, 1, &stats), NVML_ERROR_NOT_FOUND);
}

}  // namespace
}  // namespace softmig::sim_test
