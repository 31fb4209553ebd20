// Contexts: what they cost, whose they are, what goes with them.
#include <thread>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

using BareTest = SimTest;
using ContextsTest = ContextTest;

CUresult make(CUcontext* context) { return cuCtxCreate_v2(context, 0, 0); }

TEST_F(BareTest, NothingWorksBeforeInit) {
  int count = 0, version = 0;
  CUdeviceptr address = 0;
  EXPECT_CUDA(cuDriverGetVersion(&version));
  EXPECT_EQ(version, 13000);
  EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(cuInit(0));
  EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_INVALID_CONTEXT);
}

TEST_F(BareTest, InitAndContextsCostWhatTheyDoOnTheCard) {
  EXPECT_EQ(used(), 0);
  ASSERT_CUDA(cuInit(0));
  EXPECT_EQ(used(), kBaseUsed);
  EXPECT_EQ(process_count(), 0u) << "listed only with a context";
  CUcontext first = nullptr, second = nullptr;
  ASSERT_CUDA(cuDevicePrimaryCtxRetain(&first, 0));
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
  EXPECT_EQ(listed(getpid()), kContextListed);
  ASSERT_CUDA(make(&second));
  EXPECT_EQ(used(), kBaseUsed + 2 * kContextUsed);
  EXPECT_EQ(listed(getpid()), 2 * kContextListed);
  ASSERT_CUDA(cuCtxDestroy_v2(second));
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
  ASSERT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  EXPECT_EQ(used(), kBaseUsed);
  EXPECT_EQ(process_count(), 0u);
}

TEST_F(ContextsTest, StreamsCostAndEventsDoNot) {
  const Marked mark;
  std::vector<CUstream> streams(32);
  for (CUstream& stream : streams) ASSERT_CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  EXPECT_EQ(mark.used(), 16);
  EXPECT_EQ(mark.listed(), 16);
  CUevent event = nullptr;
  for (int i = 0; i < 1000; ++i) ASSERT_CUDA(cuEventCreate(&event, 0));
  EXPECT_EQ(mark.listed(), 16);
  for (CUstream stream : streams) ASSERT_CUDA(cuStreamDestroy_v2(stream));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(cuStreamDestroy_v2(streams[0]), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(ContextsTest, TheStackIsTakenAtOnceHeapAndPrintfAreNot) {
  size_t value = 0;
  const struct {
    CUlimit limit;
    size_t value;
  } defaults[] = {{CU_LIMIT_STACK_SIZE, 1024},
                  {CU_LIMIT_PRINTF_FIFO_SIZE, 8650752},
                  {CU_LIMIT_MALLOC_HEAP_SIZE, 8388608}};
  for (const auto& row : defaults) {
    ASSERT_CUDA(cuCtxGetLimit(&value, row.limit));
    EXPECT_EQ(value, row.value);
  }
  const Marked mark;
  EXPECT_CUDA(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, kGiB));
  EXPECT_CUDA(cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, 512 * kMiB));
  EXPECT_EQ(mark.used(), 0);
  EXPECT_CUDA(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 16384));
  EXPECT_EQ(mark.used(), 3960);
  EXPECT_EQ(mark.listed(), 3960);
  EXPECT_CUDA(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
  EXPECT_EQ(mark.used(), 0);
  EXPECT_EQ(cuCtxSetLimit(CU_LIMIT_SHMEM_SIZE, 1), CUDA_ERROR_UNSUPPORTED_LIMIT);
}

TEST_F(ContextsTest, TheHeapIsTakenByTheFirstKernelThatUsesIt) {
  const std::string text =
      ".version 7.0\n.target sm_70\n.address_size 64\n"
      ".extern .func (.param .b64 r) malloc (.param .b64 n);\n"
      ".visible .entry user(){ ret; }\n";
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  ASSERT_CUDA(cuModuleLoadData(&module, text.c_str()));
  ASSERT_CUDA(cuModuleGetFunction(&function, module, "user"));
  const Marked mark;
  ASSERT_CUDA(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, kGiB));
  EXPECT_EQ(mark.used(), 0);
  ASSERT_CUDA(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  EXPECT_EQ(mark.used(), 1024);
  EXPECT_EQ(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 1), CUDA_ERROR_INVALID_VALUE) << "too late";
}

TEST_F(ContextsTest, DestroyingAContextFreesAllThatIsInIt) {
  const Marked mark;
  CUcontext own = nullptr;
  ASSERT_CUDA(make(&own));
  CUdeviceptr address = 0;
  CUarray array = nullptr;
  CUmodule module = nullptr;
  CUstream stream = nullptr;
  const CUDA_ARRAY_DESCRIPTOR desc{4096, 4096, CU_AD_FORMAT_FLOAT, 1};
  ASSERT_CUDA(cuMemAlloc_v2(&address, 100));
  ASSERT_CUDA(cuMemAlloc_v2(&address, 300 * kMiB));
  ASSERT_CUDA(cuArrayCreate_v2(&array, &desc));
  ASSERT_CUDA(cuModuleLoadData(&module, ptx_with_array(10 * kMiB).c_str()));
  for (int i = 0; i < 9; ++i) ASSERT_CUDA(cuStreamCreate(&stream, 0));
  ASSERT_CUDA(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048));
  EXPECT_EQ(mark.listed(), kContextListed + 2 + 300 + 64 + 10 + 4 + 264);
  ASSERT_CUDA(cuCtxDestroy_v2(own));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(mark.used(), 0);
  EXPECT_EQ(cuCtxDestroy_v2(own), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuModuleUnload(module), CUDA_ERROR_INVALID_HANDLE);
  CUcontext current = nullptr;
  ASSERT_CUDA(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, context_) << "the one below it on the stack";
}

TEST_F(ContextsTest, PrimaryContextsAreCounted) {
  unsigned int flags = 0;
  int active = 0;
  CUcontext again = nullptr;
  ASSERT_CUDA(cuDevicePrimaryCtxRetain(&again, 0));
  EXPECT_EQ(again, context_);
  ASSERT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  ASSERT_CUDA(cuDevicePrimaryCtxGetState(0, &flags, &active));
  EXPECT_EQ(active, 1);
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&address, 10 * kMiB));
  ASSERT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  ASSERT_CUDA(cuDevicePrimaryCtxGetState(0, &flags, &active));
  EXPECT_EQ(active, 0);
  EXPECT_EQ(used(), kBaseUsed);
  EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_CONTEXT_IS_DESTROYED) << "still current here";
  ASSERT_CUDA(cuDevicePrimaryCtxRetain(&again, 0));
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
}

TEST_F(ContextsTest, ResetFreesEverythingWhateverTheCount) {
  CUcontext again = nullptr;
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuDevicePrimaryCtxRetain(&again, 0));
  ASSERT_CUDA(cuMemAlloc_v2(&address, 10 * kMiB));
  ASSERT_CUDA(cuDevicePrimaryCtxReset_v2(0));
  EXPECT_EQ(used(), kBaseUsed);
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_CUDA(cuDevicePrimaryCtxRelease_v2(0)) << "a reset is no release";
  EXPECT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
}

TEST_F(ContextsTest, EachThreadHasItsOwnStack) {
  CUcontext current = nullptr, popped = nullptr;
  std::thread([&] {
    CUcontext none = context_;
    EXPECT_CUDA(cuCtxGetCurrent(&none));
    EXPECT_EQ(none, nullptr);
    EXPECT_EQ(cuCtxPopCurrent_v2(&none), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_CUDA(cuCtxPushCurrent_v2(context_));
    CUdevice device = -1;
    EXPECT_CUDA(cuCtxGetDevice(&device));
    EXPECT_EQ(device, 0);
  }).join();
  ASSERT_CUDA(cuCtxPushCurrent_v2(context_));
  ASSERT_CUDA(cuCtxPopCurrent_v2(&popped));
  EXPECT_EQ(popped, context_);
  ASSERT_CUDA(cuCtxSetCurrent(nullptr));
  ASSERT_CUDA(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, nullptr);
}

TEST_F(ContextsTest, ContextsOfEveryVersionCanBeMade) {
  CUcontext made = nullptr;
  CUctxCreateParams params{};
  unsigned int version = 0;
  ASSERT_CUDA(cuCtxCreate(&made, 0, 0));
  ASSERT_CUDA(cuCtxGetApiVersion(made, &version));
  EXPECT_EQ(version, 3010u);
  EXPECT_CUDA(cuCtxDestroy(made));
  ASSERT_CUDA(cuCtxCreate_v3(&made, nullptr, 0, 0, 0));
  EXPECT_CUDA(cuCtxDestroy_v2(made));
  ASSERT_CUDA(cuCtxCreate_v4(&made, &params, 0, 0));
  ASSERT_CUDA(cuCtxGetApiVersion(made, &version));
  EXPECT_EQ(version, 3020u);
  EXPECT_CUDA(cuCtxDestroy_v2(made));
  EXPECT_EQ(cuCtxCreate_v2(&made, 0, 1), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(cuCtxDestroy_v2(context_), CUDA_ERROR_INVALID_CONTEXT) << "the primary one is released";
}

TEST_F(ContextsTest, GreenContextsHoldThePrimaryOne) {
  CUdevResource resource{}, half{};
  CUdevResourceDesc desc = nullptr;
  CUgreenCtx green = nullptr;
  CUstream stream = nullptr;
  unsigned int groups = 1;
  ASSERT_CUDA(cuDeviceGetDevResource(0, &resource, CU_DEV_RESOURCE_TYPE_SM));
  EXPECT_EQ(resource.sm.smCount, 132u);
  ASSERT_CUDA(cuDevSmResourceSplitByCount(&half, &groups, &resource, nullptr, 0, 64));
  EXPECT_EQ(half.sm.smCount, 64u);
  ASSERT_CUDA(cuDevResourceGenerateDesc(&desc, &half, 1));
  ASSERT_CUDA(cuGreenCtxCreate(&green, desc, 0, 1));
  ASSERT_CUDA(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  ASSERT_CUDA(cuDevicePrimaryCtxRelease_v2(0));
  EXPECT_EQ(listed(getpid()), kContextListed);
  ASSERT_CUDA(cuGreenCtxDestroy(green));
  EXPECT_EQ(listed(getpid()), 0);
}

}  // namespace
}  // namespace softmig::sim_test
