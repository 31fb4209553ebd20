// Memory pools: growth, release, reuse, the life of a pool.
#include <cstdlib>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

class PoolTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    ASSERT_CUDA(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(cuDeviceGetDefaultMemPool(&pool_, 0));
  }
  double get(CUmemPool_attribute attribute) { return static_cast<double>(raw(attribute)) / kMiB; }
  uint64_t raw(CUmemPool_attribute attribute) {
    cuuint64_t value = 0;
    EXPECT_CUDA(cuMemPoolGetAttribute(pool_, attribute, &value));
    return value;
  }
  double reserved() { return get(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT); }
  double in_use() { return get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT); }
  CUdeviceptr take(uint64_t bytes) {
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAllocAsync(&address, bytes, stream_));
    return address;
  }
  void keep_everything() {
    cuuint64_t threshold = ~cuuint64_t{0};
    EXPECT_CUDA(cuMemPoolSetAttribute(pool_, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  }

  CUstream stream_ = nullptr;
  CUmemoryPool pool_ = nullptr;
};

TEST_F(PoolTest, GrowsBy32MiBAndGivesBackAtTheNextSynchronisation) {
  EXPECT_EQ(raw(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), 0u);
  constexpr struct {
    uint64_t bytes;
    double reserved;
  } kRows[] = {{1, 32},           {kMiB, 32},       {2 * kMiB, 32},  {5 * kMiB, 32},
               {31 * kMiB, 32},   {33 * kMiB, 64},  {40 * kMiB, 64}, {65 * kMiB, 96},
               {100 * kMiB, 128}, {512 * kMiB, 512}};
  for (const auto& row : kRows) {
    const Marked mark;
    const CUdeviceptr address = take(row.bytes);
    EXPECT_EQ(reserved(), row.reserved);
    EXPECT_EQ(raw(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), row.bytes);
    EXPECT_EQ(mark.listed(), row.reserved);
    EXPECT_EQ(mark.used(), row.reserved);
    ASSERT_CUDA(cuMemFreeAsync(address, stream_));
    EXPECT_EQ(reserved(), row.reserved) << "not synchronised yet";
    EXPECT_EQ(in_use(), 0);
    ASSERT_CUDA(cuStreamSynchronize(stream_));
    EXPECT_EQ(reserved(), 0);
    EXPECT_EQ(mark.listed(), 0);
  }
}

TEST_F(PoolTest, ManySmallOnesShareTheSteps) {
  std::vector<CUdeviceptr> pieces;
  for (int i = 0; i < 600; ++i) pieces.push_back(take(kMiB));
  EXPECT_EQ(reserved(), 608);
  EXPECT_EQ(in_use(), 600);
  for (CUdeviceptr piece : pieces) ASSERT_CUDA(cuMemFreeAsync(piece, stream_));
  EXPECT_EQ(reserved(), 608);
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(reserved(), 0);
  EXPECT_EQ(get(CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 608);
  EXPECT_EQ(get(CU_MEMPOOL_ATTR_USED_MEM_HIGH), 600);
  cuuint64_t zero = 0;
  ASSERT_CUDA(cuMemPoolSetAttribute(pool_, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero));
  EXPECT_EQ(get(CU_MEMPOOL_ATTR_USED_MEM_HIGH), 0);
}

// The sequence of the measurement, with the same random numbers.
TEST_F(PoolTest, RandomSizesEndWhereTheCardEnds) {
  keep_everything();
  srand(1);
  std::vector<CUdeviceptr> pieces;
  for (int i = 0; i < 400; ++i) {
    pieces.push_back(take(static_cast<uint64_t>(rand() % (64 << 20)) + 1));
    if (pieces.size() <= 100) continue;
    const auto victim = static_cast<size_t>(rand()) % pieces.size();
    ASSERT_CUDA(cuMemFreeAsync(pieces[victim], stream_));
    pieces.erase(pieces.begin() + static_cast<long>(victim));
  }
  EXPECT_EQ(reserved(), 4480);
  EXPECT_NEAR(in_use(), 3290.523, 0.001);
  for (CUdeviceptr piece : pieces) ASSERT_CUDA(cuMemFreeAsync(piece, stream_));
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(reserved(), 4480) << "below the threshold";
  const auto large = static_cast<uint64_t>(4480) * kMiB * 3 / 4;
  const CUdeviceptr whole = take(large);
  EXPECT_EQ(reserved(), 4480) << "its pages are put together";
  ASSERT_CUDA(cuMemFreeAsync(whole, stream_));
  CUstream other = nullptr;
  CUdeviceptr again = 0;
  ASSERT_CUDA(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  ASSERT_CUDA(cuMemAllocAsync(&again, large, other));
  EXPECT_EQ(reserved(), 4480);
  ASSERT_CUDA(cuMemFreeAsync(again, other));
  ASSERT_CUDA(cuMemPoolTrimTo(pool_, 1000 * kMiB));
  EXPECT_LE(reserved(), 1000 + 3360);
  ASSERT_CUDA(cuMemPoolTrimTo(pool_, 0));
  EXPECT_EQ(reserved(), 0);
}

TEST_F(PoolTest, PlainFreeTakesPoolMemoryToo) {
  keep_everything();
  const CUdeviceptr address = take(kMiB);
  ASSERT_CUDA(cuMemFree_v2(address));
  EXPECT_EQ(in_use(), 1) << "counted until the pool's next action";
  const CUdeviceptr next = take(2 * kMiB);
  EXPECT_EQ(in_use(), 2);
  ASSERT_CUDA(cuMemFree_v2(next));
  EXPECT_EQ(in_use(), 2);
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(in_use(), 0);
  EXPECT_EQ(cuMemFreeAsync(address, stream_), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(PoolTest, WorkThatRunsHoldsWhatWasFreedAfterIt) {
  CUmodule module = nullptr;
  CUfunction spin = nullptr;
  ASSERT_CUDA(cuModuleLoadData(&module, ptx_with_array(4).c_str()));
  ASSERT_CUDA(cuModuleGetFunction(&spin, module, "spin_us"));
  const CUdeviceptr address = take(kMiB);
  unsigned int us = 200000;
  void* params[] = {&us};
  ASSERT_CUDA(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream_, params, nullptr));
  ASSERT_CUDA(cuMemFreeAsync(address, stream_));
  CUstream other = nullptr;
  ASSERT_CUDA(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  ASSERT_CUDA(cuStreamSynchronize(other));
  EXPECT_EQ(reserved(), 32);
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(reserved(), 0);
}

TEST_F(PoolTest, ADestroyedPoolKeepsWhatIsStillAllocated) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  const Marked mark;
  ASSERT_CUDA(cuMemPoolCreate(&pool_, &props));
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemAllocFromPoolAsync(&address, 100 * kMiB, pool_, stream_));
  EXPECT_EQ(reserved(), 128);
  ASSERT_CUDA(cuMemPoolDestroy(pool_));
  EXPECT_EQ(mark.listed(), 128);
  EXPECT_EQ(cuMemAllocFromPoolAsync(&address, 1, pool_, stream_), CUDA_ERROR_INVALID_VALUE);
  ASSERT_CUDA(cuMemFreeAsync(address, stream_));
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(mark.listed(), 0);
  ASSERT_CUDA(cuDeviceGetDefaultMemPool(&pool_, 0));
  EXPECT_EQ(cuMemPoolDestroy(pool_), CUDA_ERROR_INVALID_VALUE) << "the default pool stays";
}

TEST_F(PoolTest, ABoundedPoolStopsAtItsSize) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  props.maxSize = 64 * kMiB;
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemPoolCreate(&pool_, &props));
  EXPECT_EQ(cuMemAllocFromPoolAsync(&address, 100 * kMiB, pool_, stream_),
            CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CUDA(cuMemAllocFromPoolAsync(&address, 60 * kMiB, pool_, stream_));
}

TEST_F(PoolTest, TheCurrentPoolServesAllocations) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemoryPool own = nullptr, current = nullptr;
  ASSERT_CUDA(cuMemPoolCreate(&own, &props));
  ASSERT_CUDA(cuDeviceSetMemPool(0, own));
  ASSERT_CUDA(cuDeviceGetMemPool(&current, 0));
  EXPECT_EQ(current, own);
  const CUdeviceptr address = take(kMiB);
  EXPECT_EQ(in_use(), 0) << "not the default one";
  CUmemoryPool of_address = nullptr;
  ASSERT_CUDA(cuPointerGetAttribute(&of_address, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, address));
  EXPECT_EQ(of_address, own);
}

TEST_F(PoolTest, TheLastContextTakesThePoolWithIt) {
  take(100 * kMiB);
  ASSERT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  EXPECT_EQ(used(), kBaseUsed);
}

TEST_F(PoolTest, APoolCanBeExported) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemoryPool own = nullptr, theirs = nullptr;
  int fd = -1;
  ASSERT_CUDA(cuMemPoolCreate(&own, &props));
  ASSERT_CUDA(
      cuMemPoolExportToShareableHandle(&fd, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  CUdeviceptr address = 0, imported = 0;
  ASSERT_CUDA(cuMemAllocFromPoolAsync(&address, kMiB, own, stream_));
  CUmemPoolPtrExportData data{};
  ASSERT_CUDA(cuMemPoolExportPointer(&data, address));
  ASSERT_CUDA(cuMemPoolImportFromShareableHandle(&theirs,
                                                 reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  const Marked mark;
  ASSERT_CUDA(cuMemPoolImportPointer(&imported, theirs, &data));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(cuMemAllocFromPoolAsync(&address, 1, theirs, stream_), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(cuMemFreeAsync(imported, stream_));
}

}  // namespace
}  // namespace softmig::sim_test
