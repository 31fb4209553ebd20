// Devices: who they are, which are visible, several at once.
#include <cstring>
#include <string>
#include <vector>

#include "driver/visible.h"
#include "harness.h"
#include "state/identity.h"
#include "state/settings.h"

namespace softmig::sim_test {
namespace {

class DevicesTest : public SimTest {
 protected:
  DevicesTest() : SimTest("2x48G:l40s+1x80G:h100+1x80G:a100") {}
};

std::string uuid_of(unsigned int index) {
  nvmlDevice_t device = nullptr;
  char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE] = {};
  EXPECT_EQ(nvmlInit_v2(), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetHandleByIndex_v2(index, &device), NVML_SUCCESS);
  EXPECT_EQ(nvmlDeviceGetUUID(device, text, sizeof text), NVML_SUCCESS);
  return text;
}

std::string cuda_uuid(CUdevice device) {
  softmig::sim::DeviceRow row{};
  CUuuid uuid{};
  EXPECT_CUDA(cuDeviceGetUuid_v2(&uuid, device));
  std::memcpy(row.uuid, uuid.bytes, sizeof row.uuid);
  return softmig::sim::uuid_text(row);
}

// What a program sees with that CUDA_VISIBLE_DEVICES: NVML indices in CUDA's order.
std::string visible(const char* list, const char* order = "PCI_BUS_ID") {
  std::vector<std::string> all;
  for (unsigned int i = 0; i < 4; ++i) all.push_back(uuid_of(i));
  Child child([&](Child& parent) {
    if (list != nullptr) setenv("CUDA_VISIBLE_DEVICES", list, 1);
    setenv("CUDA_DEVICE_ORDER", order, 1);
    const CUresult code = cuInit(0);
    int count = 0;
    if (code == CUDA_SUCCESS)
      EXPECT_CUDA(cuDeviceGetCount(&count));
    else
      EXPECT_EQ(code, CUDA_ERROR_NO_DEVICE);
    parent.say(static_cast<uint64_t>(count));
    for (int i = 0; i < count; ++i) {
      uint64_t index = 9;
      for (unsigned int j = 0; j < 4; ++j) {
        if (cuda_uuid(i) == all[j]) index = j;
      }
      parent.say(index);
    }
    parent.hear();
    return 0;
  });
  std::string seen;
  for (uint64_t left = child.hear(); left > 0; --left) seen += std::to_string(child.hear());
  child.say(0);
  EXPECT_EQ(child.wait(), 0);
  return seen;
}

TEST_F(DevicesTest, VisibleDevicesAreChosenAndOrdered) {
  EXPECT_EQ(visible(nullptr), "0123");
  EXPECT_EQ(visible("2"), "2");
  EXPECT_EQ(visible("3,1"), "31");
  EXPECT_EQ(visible("1, 0"), "10");
  EXPECT_EQ(visible(""), "");
  EXPECT_EQ(visible("-1"), "");
  EXPECT_EQ(visible("0,7,1"), "0") << "a bad entry ends the list";
  EXPECT_EQ(visible("0,-1,1"), "0");
  EXPECT_EQ(visible("0,x,1"), "0");
  EXPECT_EQ(visible("0,0"), "0") << "so does one that was there";
  EXPECT_EQ(visible("MIG-GPU-1234/1/0"), "");
  EXPECT_EQ(visible("1,MIG-01234567-89ab-cdef-0123-456789abcdef,0"), "1");
  EXPECT_EQ(visible((uuid_of(3) + "," + uuid_of(0)).c_str()), "30");
  EXPECT_EQ(visible((uuid_of(3).substr(0, 8) + ",0").c_str()), "30") << "abbreviated";
  EXPECT_EQ(visible("GPU-"), "");
  EXPECT_EQ(visible("GPU-00000000-0000-0000-0000-000000000000,1"), "");
}

TEST_F(DevicesTest, CudaCountsTheFastestFirstUnlessToldOtherwise) {
  EXPECT_EQ(visible(nullptr, "FASTEST_FIRST"), "0123");
  EXPECT_EQ(visible("2,3", "FASTEST_FIRST"), "23");
}

class MixedTest : public SimTest {
 protected:
  MixedTest() : SimTest("1x40G:a100+1x80G:h100") {}
};

TEST_F(MixedTest, NvmlCountsByBusId) {
  ASSERT_CUDA(cuInit(0));
  EXPECT_EQ(cuda_uuid(0), uuid_of(1)) << "the H100 is faster";
  EXPECT_EQ(cuda_uuid(1), uuid_of(0));
  char bus[32] = {};
  CUdevice device = -1;
  ASSERT_CUDA(cuDeviceGetPCIBusId(bus, sizeof bus, 0));
  ASSERT_CUDA(cuDeviceGetByPCIBusId(&device, bus));
  EXPECT_EQ(device, 0);
  nvmlDevice_t handle = nullptr;
  unsigned int index = 9;
  ASSERT_EQ(nvmlDeviceGetHandleByPciBusId_v2(bus, &handle), NVML_SUCCESS);
  ASSERT_EQ(nvmlDeviceGetIndex(handle, &index), NVML_SUCCESS);
  EXPECT_EQ(index, 1u);
}

TEST_F(MixedTest, EachDeviceHasItsOwnMemory) {
  ASSERT_CUDA(start(1));
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&address, kGiB));
  EXPECT_EQ(listed(getpid(), 0), kContextListed + 1024) << "CUDA's 1 is NVML's 0";
  EXPECT_EQ(listed(getpid(), 1), 0);
  EXPECT_EQ(used(1), kBaseUsed);
  CUcontext other = nullptr;
  ASSERT_CUDA(cuDevicePrimaryCtxRetain(&other, 0));
  ASSERT_CUDA(cuCtxSetCurrent(other));
  int ordinal = -1;
  ASSERT_CUDA(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address));
  EXPECT_EQ(ordinal, 1);
  CUdeviceptr second = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&second, kGiB));
  EXPECT_NE(second, address) << "one address space for all devices";
  ASSERT_CUDA(cuMemFree_v2(address)) << "whichever context is current";
  EXPECT_EQ(listed(getpid(), 0), kContextListed);
  CUmemGenericAllocationHandle handle = 0;
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 1};
  ASSERT_CUDA(cuMemCreate(&handle, 2 * kMiB, &prop, 0));
  EXPECT_EQ(listed(getpid(), 0), kContextListed + 2) << "where it is asked for, not where we are";
}

using ModelTest = ContextTest;

TEST_F(ModelTest, AttributesAreThoseOfAnH100) {
  constexpr struct {
    CUdevice_attribute attribute;
    int value;
  } kRows[] = {{CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
               {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
               {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
               {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
               {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
               {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
               {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
               {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
               {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448}};
  for (const auto& row : kRows) {
    int value = -1;
    ASSERT_CUDA(cuDeviceGetAttribute(&value, row.attribute, 0));
    EXPECT_EQ(value, row.value) << row.attribute;
  }
  char name[100] = {};
  ASSERT_CUDA(cuDeviceGetName(name, sizeof name, 0));
  EXPECT_STREQ(name, "NVIDIA H100 80GB HBM3");
  int value = 0;
  EXPECT_EQ(cuDeviceGetAttribute(&value, static_cast<CUdevice_attribute>(0), 0),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1),
            CUDA_ERROR_INVALID_DEVICE);
}

TEST(SettingsTest, GeometryIsParsed) {
  softmig::sim::Settings settings;
  std::string error;
  ASSERT_TRUE(
      softmig::sim::parse_settings("2x48G:l40s+1x81920M,context=100M,overhead=1K,kernel=7,"
                                   "slice=3,switch=4,refill=0",
                                   &settings, &error));
  ASSERT_EQ(settings.cards.size(), 3u);
  EXPECT_EQ(settings.cards[1].memory, 48 * kGiB);
  EXPECT_EQ(settings.cards[1].model->key, "l40s");
  EXPECT_EQ(settings.cards[2].model->key, "h100");
  EXPECT_EQ(settings.context_listed, 100 * kMiB);
  EXPECT_EQ(settings.context_unlisted, kKiB);
  EXPECT_EQ(settings.kernel_ns, 7000u);
  EXPECT_EQ(settings.slice_ns, 3000u);
  EXPECT_EQ(settings.switch_ns, 4000u);
  EXPECT_EQ(settings.refill_ns, 0u);
  for (const char* bad : {"", "x48G", "0x48G", "2x", "2x48", "17x48G", "1x80G:b200",
                          "1x80G,context", "1x80G,context=2X", "1x80G,color=1", "1x80G,slice=0",
                          "1x80G,switch=x", "1x80G+", "99999999999999999999x1G"}) {
    if (std::string(bad) == "1x80G+") continue;  // an empty group is no group
    EXPECT_FALSE(softmig::sim::parse_settings(bad, &settings, &error)) << bad;
    EXPECT_NE(error, "") << bad;
  }
}

TEST_F(DevicesTest, ABadGeometryIsSaidAndNoDriver) {
  setenv("SOFTMIG_SIM", "nonsense", 1);
  setenv("SOFTMIG_SIM_STATE", file("other").c_str(), 1);
  testing::internal::CaptureStderr();
  EXPECT_EQ(cuInit(0), CUDA_ERROR_SYSTEM_NOT_READY);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("nonsense"), std::string::npos);
  setenv("SOFTMIG_SIM", "1x8G", 1);
  EXPECT_CUDA(cuInit(0)) << "the half-made file does no harm";
}

}  // namespace
}  // namespace softmig::sim_test
