// cuMemAlloc and its relatives: what they take, what they refuse, that data can be read back.
#include <algorithm>
#include <array>
#include <ostream>
#include <set>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

using MemoryTest = ContextTest;

struct Grain {
  uint64_t bytes;
  int pieces;
  double taken;  // MiB
};

std::ostream& operator<<(std::ostream& out, const Grain& grain) {
  return out << grain.pieces << " x " << grain.bytes;
}

// Every row of the measured table.
class GrainTest : public ContextTest, public testing::WithParamInterface<Grain> {};

TEST_P(GrainTest, TakesWhatTheCardTakes) {
  const Grain& grain = GetParam();
  const Marked mark;
  std::vector<CUdeviceptr> pieces(static_cast<size_t>(grain.pieces));
  for (CUdeviceptr& piece : pieces) ASSERT_CUDA(cuMemAlloc_v2(&piece, grain.bytes));
  EXPECT_EQ(mark.used(), grain.taken);
  EXPECT_EQ(mark.listed(), grain.taken);
  std::set<CUdeviceptr> blocks;
  std::vector<CUdeviceptr> kept;
  for (CUdeviceptr piece : pieces) {
    if (blocks.insert(piece >> 21).second)
      kept.push_back(piece);
    else
      ASSERT_CUDA(cuMemFree_v2(piece));
  }
  EXPECT_EQ(mark.listed(), grain.taken) << "one piece keeps its block";
  for (CUdeviceptr piece : kept) ASSERT_CUDA(cuMemFree_v2(piece));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(mark.used(), 0);
}

INSTANTIATE_TEST_SUITE_P(Sizes, GrainTest,
                         testing::Values(Grain{1, 8192, 4}, Grain{512, 8192, 4},
                                         Grain{4096, 8192, 32}, Grain{65536, 256, 16},
                                         Grain{262144, 256, 64}, Grain{kMiB, 256, 256},
                                         Grain{kMiB + 512, 64, 128}, Grain{3 * kMiB / 2, 64, 128},
                                         Grain{2 * kMiB - 512, 64, 128}, Grain{2 * kMiB, 64, 128},
                                         Grain{2 * kMiB + 512, 64, 256}, Grain{3 * kMiB, 64, 256},
                                         Grain{5 * kMiB, 64, 384}, Grain{33 * kMiB, 64, 2176}),
                         [](const auto& info) {
                           return std::to_string(info.param.bytes) + "Bytes";
                         });

TEST_F(MemoryTest, SmallPiecesStand512BytesApartAndAddressesAreUsedAgain) {
  std::array<CUdeviceptr, 3> piece{};
  for (CUdeviceptr& one : piece) ASSERT_CUDA(cuMemAlloc_v2(&one, 1));
  EXPECT_EQ(piece[1] - piece[0], 512u);
  EXPECT_EQ(piece[2] - piece[1], 512u);
  ASSERT_CUDA(cuMemFree_v2(piece[1]));
  CUdeviceptr again = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&again, 300));
  EXPECT_EQ(again, piece[1]);
}

TEST_F(MemoryTest, PitchIsRoundedTo512) {
  constexpr struct {
    size_t width, pitch;
    double taken;
  } kRows[] = {{1, 512, 800}, {100, 512, 800}, {513, 1024, 1568}, {4097, 4608, 7040}};
  for (const auto& row : kRows) {
    const Marked mark;
    std::array<CUdeviceptr, 16> pieces{};
    size_t pitch = 0;
    for (CUdeviceptr& piece : pieces)
      ASSERT_CUDA(cuMemAllocPitch_v2(&piece, &pitch, row.width, 100000, 4));
    EXPECT_EQ(pitch, row.pitch);
    EXPECT_EQ(mark.listed(), row.taken);
    for (CUdeviceptr piece : pieces) ASSERT_CUDA(cuMemFree_v2(piece));
  }
}

TEST_F(MemoryTest, ManagedMemoryIsTakenWhenTheDeviceTouchesItAndNeverListed) {
  const Marked mark;
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemAllocManaged(&address, 64 * kMiB, CU_MEM_ATTACH_GLOBAL));
  EXPECT_EQ(mark.used(), 0);
  *reinterpret_cast<char*>(address) = 1;
  EXPECT_EQ(mark.used(), 0);
  ASSERT_CUDA(cuMemsetD8_v2(address, 7, 64 * kMiB));
  EXPECT_EQ(mark.used(), 188);
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(*reinterpret_cast<char*>(address), 7);
  ASSERT_CUDA(cuMemFree_v2(address));
  EXPECT_EQ(mark.used(), 124) << "what managed memory itself needs stays";
  ASSERT_CUDA(cuMemAllocManaged(&address, 10 * kMiB, CU_MEM_ATTACH_GLOBAL));
  ASSERT_CUDA(cuMemsetD8_v2(address + 3 * kMiB, 7, 1));
  EXPECT_EQ(mark.used(), 126) << "it needs that once, and of the memory what is touched";
}

TEST_F(MemoryTest, HostMemoryCostsTheDeviceNothing) {
  const Marked mark;
  void* host = nullptr;
  ASSERT_CUDA(cuMemHostAlloc(&host, 16 * kMiB, CU_MEMHOSTALLOC_DEVICEMAP));
  static_cast<char*>(host)[16 * kMiB - 1] = 3;
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemHostGetDevicePointer_v2(&address, host, 0));
  EXPECT_EQ(address, reinterpret_cast<CUdeviceptr>(host));
  EXPECT_EQ(mark.used(), 0);
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(cuMemFreeHost(host));
  EXPECT_EQ(cuMemFreeHost(host), CUDA_ERROR_INVALID_VALUE);
  std::vector<char> own(8192);
  ASSERT_CUDA(cuMemHostRegister_v2(own.data(), own.size(), 0));
  EXPECT_EQ(cuMemHostRegister_v2(own.data(), 1, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_CUDA(cuMemHostUnregister(own.data()));
  EXPECT_EQ(cuMemHostUnregister(own.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

TEST_F(MemoryTest, OldFunctionsGiveAddressesOf32Bits) {
  CUdeviceptr_v1 address = 0;
  ASSERT_CUDA(cuMemAlloc(&address, 3 * kMiB));
  EXPECT_NE(address, 0u);
  CUdeviceptr_v1 base = 0;
  unsigned int bytes = 0;
  ASSERT_CUDA(cuMemGetAddressRange(&base, &bytes, address + 5));
  EXPECT_EQ(base, address);
  EXPECT_EQ(bytes, 3 * kMiB);
  EXPECT_CUDA(cuMemFree(address));
}

TEST_F(MemoryTest, WhatIsWrittenIsReadBack) {
  CUdeviceptr large = 0, small = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&large, kGiB));
  ASSERT_CUDA(cuMemAlloc_v2(&small, 1000));
  std::vector<unsigned char> data(70000), back(70000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 7);
  const CUdeviceptr across = large + 2 * kMiB - 1234;
  ASSERT_CUDA(cuMemcpyHtoD_v2(across, data.data(), data.size()));
  ASSERT_CUDA(cuMemcpyDtoH_v2(back.data(), across, back.size()));
  EXPECT_EQ(back, data);
  ASSERT_CUDA(cuMemsetD32_v2(large, 0x01020304, kGiB / 4));
  ASSERT_CUDA(cuMemcpyDtoD_v2(small, large + kGiB - 1000, 1000));
  ASSERT_CUDA(cuMemcpyDtoH_v2(back.data(), small, 1000));
  EXPECT_EQ(back[0], 4);
  EXPECT_EQ(back[999], 1);
  ASSERT_CUDA(cuMemcpy(reinterpret_cast<CUdeviceptr>(back.data()), small, 4));
  EXPECT_EQ(back[3], 1);
}

TEST_F(MemoryTest, BadPointersAreRefused) {
  CUdeviceptr address = 0;
  char byte = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&address, 1000));
  EXPECT_EQ(cuMemAlloc_v2(nullptr, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemAlloc_v2(&address, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(address + 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(0x123400000000), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemsetD8_v2(address, 0, 1001), CUDA_ERROR_INVALID_VALUE) << "past the end";
  EXPECT_EQ(cuMemcpyDtoH_v2(&byte, address + 1000, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(cuMemFree_v2(address));
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE) << "freed twice";
  EXPECT_EQ(cuMemcpyHtoD_v2(address, &byte, 1), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(MemoryTest, AddressesAreDescribed) {
  CUdeviceptr address = 0, base = 0;
  size_t bytes = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&address, 5 * kMiB));
  ASSERT_CUDA(cuMemGetAddressRange_v2(&base, &bytes, address + 77));
  EXPECT_EQ(base, address);
  EXPECT_EQ(bytes, 5 * kMiB);
  EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, 12345), CUDA_ERROR_NOT_FOUND);
  int ordinal = -1;
  unsigned int type = 0;
  CUcontext context = nullptr;
  ASSERT_CUDA(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address));
  ASSERT_CUDA(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + 1));
  ASSERT_CUDA(cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address));
  EXPECT_EQ(ordinal, 0);
  EXPECT_EQ(type, CU_MEMORYTYPE_DEVICE);
  EXPECT_EQ(context, context_);
  EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 12345),
            CUDA_ERROR_INVALID_VALUE);
  CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                 CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* values[] = {&type, &ordinal};
  ASSERT_CUDA(cuPointerGetAttributes(2, which, values, 12345)) << "the plural form never fails";
  EXPECT_EQ(type, 0u);
  EXPECT_EQ(ordinal, CU_DEVICE_INVALID);
}

TEST_F(MemoryTest, FreeAndTotalAreTheDevicesOwn) {
  size_t free_bytes = 0, total = 0, device_total = 0;
  ASSERT_CUDA(cuMemGetInfo_v2(&free_bytes, &total));
  ASSERT_CUDA(cuDeviceTotalMem_v2(&device_total, device_));
  EXPECT_EQ(total, device_total);
  EXPECT_EQ(total, 80 * kGiB - 640 * kMiB);
  EXPECT_EQ(static_cast<double>(total - free_bytes) / kMiB, kBaseUsed + kContextUsed);
}

class SmallCardTest : public ContextTest {
 protected:
  SmallCardTest() : ContextTest("1x2G,reserved=64M") {}
};

TEST_F(SmallCardTest, AFullDeviceRefuses) {
  std::vector<CUdeviceptr> pieces;
  CUdeviceptr piece = 0;
  CUresult code = CUDA_SUCCESS;
  while ((code = cuMemAlloc_v2(&piece, 64 * kMiB)) == CUDA_SUCCESS) pieces.push_back(piece);
  EXPECT_EQ(code, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(pieces.size(), 22u);  // 2048 - 64 reserved - 526.8 for the context, in pieces of 64
  EXPECT_EQ(cuMemAlloc_v2(&piece, ~size_t{0}), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CUDA(cuMemAlloc_v2(&piece, 48 * kMiB));
  ASSERT_CUDA(cuMemFree_v2(pieces[0]));
  EXPECT_CUDA(cuMemAlloc_v2(&piece, 64 * kMiB));
}

}  // namespace
}  // namespace softmig::sim_test
