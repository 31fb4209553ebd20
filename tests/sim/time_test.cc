// Streams, events, kernels of a given length, host functions.
#include <atomic>
#include <thread>

#include "harness.h"

namespace softmig::sim_test {
namespace {

class TimeTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    ASSERT_CUDA(cuModuleLoadData(&module_, ptx_with_array(4).c_str()));
    ASSERT_CUDA(cuModuleGetFunction(&spin_, module_, "spin_us"));
  }
  CUresult spin(unsigned int ms, CUstream stream) {
    unsigned int us = ms * 1000;
    void* params[] = {&us};
    return cuLaunchKernel(spin_, 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr);
  }
  CUstream stream(unsigned int flags) {
    CUstream made = nullptr;
    EXPECT_CUDA(cuStreamCreate(&made, flags));
    return made;
  }
  CUevent event() {
    CUevent made = nullptr;
    EXPECT_CUDA(cuEventCreate(&made, 0));
    return made;
  }
  CUmodule module_ = nullptr;
  CUfunction spin_ = nullptr;
};

TEST_F(TimeTest, AKernelTakesWhatItsParameterSays) {
  const CUstream s = stream(CU_STREAM_NON_BLOCKING);
  const CUevent begin = event(), end = event();
  expect_takes(50, [&] {
    EXPECT_CUDA(cuEventRecord(begin, s));
    EXPECT_CUDA(spin(50, s));
    EXPECT_CUDA(cuEventRecord(end, s));
    EXPECT_EQ(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(cuEventQuery(end), CUDA_ERROR_NOT_READY);
    float ms = 0;
    EXPECT_EQ(cuEventElapsedTime(&ms, begin, end), CUDA_ERROR_NOT_READY);
    EXPECT_CUDA(cuEventSynchronize(end));
    EXPECT_CUDA(cuStreamQuery(s));
    EXPECT_CUDA(cuEventElapsedTime(&ms, begin, end));
    return ms;
  });
  expect_lasts(50, [&] {
    EXPECT_CUDA(spin(50, s));
    EXPECT_CUDA(cuStreamSynchronize(s));
  });
}

TEST_F(TimeTest, StreamsRunSideBySideExceptForTheLegacyOne) {
  const CUstream a = stream(CU_STREAM_NON_BLOCKING), b = stream(CU_STREAM_NON_BLOCKING);
  expect_lasts(40, [&] {
    EXPECT_CUDA(spin(40, a));
    EXPECT_CUDA(spin(40, b));
    EXPECT_CUDA(spin(40, nullptr));
    EXPECT_CUDA(cuCtxSynchronize());
  });
  const CUstream blocking = stream(CU_STREAM_DEFAULT);
  expect_lasts(120, [&] {
    EXPECT_CUDA(spin(40, blocking));
    EXPECT_CUDA(spin(40, nullptr));
    EXPECT_CUDA(spin(40, blocking));
    EXPECT_CUDA(cuStreamSynchronize(blocking));
  });
}

TEST_F(TimeTest, ThePerThreadStreamWaitsForTheLegacyOne) {
  expect_lasts(80, [&] {
    EXPECT_CUDA(spin(40, nullptr));
    unsigned int us = 40000;
    void* params[] = {&us};
    EXPECT_CUDA(cuLaunchKernel_ptsz(spin_, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr));
    EXPECT_CUDA(cuStreamSynchronize_ptsz(nullptr));
  });
}

TEST_F(TimeTest, EventsOrderStreams) {
  const CUstream a = stream(CU_STREAM_NON_BLOCKING), b = stream(CU_STREAM_NON_BLOCKING);
  const CUevent done = event();
  expect_lasts(80, [&] {
    EXPECT_CUDA(spin(40, a));
    EXPECT_CUDA(cuEventRecord(done, a));
    EXPECT_CUDA(cuStreamWaitEvent(b, done, 0));
    EXPECT_CUDA(spin(40, b));
    EXPECT_CUDA(cuStreamSynchronize(b));
  });
}

TEST_F(TimeTest, ADestroyedStreamFinishesItsWork) {
  expect_lasts(60, [&] {
    const CUstream s = stream(CU_STREAM_NON_BLOCKING);
    EXPECT_CUDA(spin(60, s));
    EXPECT_CUDA(cuStreamDestroy_v2(s));
    EXPECT_CUDA(cuCtxSynchronize());
  });
}

TEST_F(TimeTest, EventsKeepTheRules) {
  CUevent untimed = nullptr, made = nullptr;
  float ms = 0;
  const CUevent never = event();
  ASSERT_CUDA(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  EXPECT_EQ(cuEventCreate(&made, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE)
      << "only without timing";
  EXPECT_CUDA(cuEventQuery(never)) << "nothing recorded, nothing to wait for";
  EXPECT_EQ(cuEventElapsedTime(&ms, never, never), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_CUDA(cuEventRecord(untimed, nullptr));
  EXPECT_EQ(cuEventElapsedTime(&ms, untimed, untimed), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_CUDA(cuEventDestroy_v2(untimed));
  EXPECT_EQ(cuEventRecord(untimed, nullptr), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(TimeTest, OtherThreadsWorkWhileOneWaits) {
  const CUstream s = stream(CU_STREAM_NON_BLOCKING);
  ASSERT_CUDA(spin(200, s));
  std::atomic<bool> waiting{true};
  std::thread waiter([&] {
    EXPECT_CUDA(cuCtxSetCurrent(context_));
    EXPECT_CUDA(cuStreamSynchronize(s));
    waiting = false;
  });
  sleep_ms(20);
  CUdeviceptr address = 0;
  EXPECT_CUDA(cuMemAlloc_v2(&address, 100));
  EXPECT_TRUE(waiting);
  waiter.join();
}

TEST_F(TimeTest, HostFunctionsRunInTheirTurn) {
  const CUstream s = stream(CU_STREAM_NON_BLOCKING);
  std::atomic<int> calls{0};
  const auto count = [](void* data) { static_cast<std::atomic<int>*>(data)->fetch_add(1); };
  ASSERT_CUDA(spin(50, s));
  ASSERT_CUDA(cuLaunchHostFunc(s, count, &calls));
  EXPECT_EQ(calls, 0);
  ASSERT_CUDA(cuStreamSynchronize(s));
  EXPECT_EQ(calls, 1);
  ASSERT_CUDA(cuLaunchHostFunc(s, count, &calls));
  for (int i = 0; i < 1000 && calls != 2; ++i) sleep_ms(1);
  EXPECT_EQ(calls, 2) << "nobody has to wait for it";
}

TEST_F(TimeTest, StreamsSayWhatTheyAre) {
  CUstream s = nullptr;
  unsigned int flags = 0;
  int priority = 0;
  CUcontext context = nullptr;
  CUdevice device = -1;
  ASSERT_CUDA(cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, -100));
  ASSERT_CUDA(cuStreamGetFlags(s, &flags));
  ASSERT_CUDA(cuStreamGetPriority(s, &priority));
  ASSERT_CUDA(cuStreamGetCtx(s, &context));
  ASSERT_CUDA(cuStreamGetDevice(s, &device));
  EXPECT_EQ(flags, 1u);
  EXPECT_EQ(priority, -5);
  EXPECT_EQ(context, context_);
  EXPECT_EQ(device, 0);
  unsigned long long legacy = 0, named = 0, thread = 0;
  ASSERT_CUDA(cuStreamGetId(nullptr, &legacy));
  ASSERT_CUDA(cuStreamGetId(reinterpret_cast<CUstream>(CU_STREAM_LEGACY_VALUE), &named));
  ASSERT_CUDA(cuStreamGetId_ptsz(nullptr, &thread));
  EXPECT_EQ(legacy, named);
  EXPECT_NE(legacy, thread);
  EXPECT_EQ(cuStreamCreate(&s, 2), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(TimeTest, OldLaunchesWork) {
  ASSERT_CUDA(cuFuncSetBlockShape(spin_, 32, 1, 1));
  ASSERT_CUDA(cuParamSeti(spin_, 0, 30000));
  ASSERT_CUDA(cuParamSetSize(spin_, 4));
  expect_lasts(30, [&] {
    EXPECT_CUDA(cuLaunchGrid(spin_, 4, 4));
    EXPECT_CUDA(cuCtxSynchronize());
  });
}

TEST_F(TimeTest, CooperativeKernelsMustFit) {
  unsigned int us = 1;
  void* params[] = {&us};
  EXPECT_CUDA(cuLaunchCooperativeKernel(spin_, 264, 1, 1, 1024, 1, 1, 0, nullptr, params));
  EXPECT_EQ(cuLaunchCooperativeKernel(spin_, 265, 1, 1, 1024, 1, 1, 0, nullptr, params),
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attribute.value.cooperative = 1;
  CUlaunchConfig config{265, 1, 1, 1024, 1, 1, 0, nullptr, &attribute, 1};
  EXPECT_EQ(cuLaunchKernelEx(&config, spin_, params, nullptr),
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  config.numAttrs = 0;
  EXPECT_CUDA(cuLaunchKernelEx(&config, spin_, params, nullptr));
}

}  // namespace
}  // namespace softmig::sim_test
