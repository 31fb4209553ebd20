// Values in memory that streams and kernels wait for; what kernels leave in memory; conditions in
// graphs.
#include <atomic>
#include <thread>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

constexpr const char* kKernels =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry spin_us(.param .u32 us){ ret; }\n"
    ".visible .entry await_flag(.param .u64 flag, .param .u32 value){ ret; }\n"
    ".visible .entry raise_flag(.param .u64 flag, .param .u32 value){ ret; }\n"
    ".visible .entry softmig_work(.param .u64 steps, .param .u64 sink){ ret; }\n";

class SignalTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    CUmodule module = nullptr;
    void* host = nullptr;
    ASSERT_CUDA(cuModuleLoadData(&module, kKernels));
    ASSERT_CUDA(cuModuleGetFunction(&spin_, module, "spin_us"));
    ASSERT_CUDA(cuModuleGetFunction(&await_, module, "await_flag"));
    ASSERT_CUDA(cuModuleGetFunction(&raise_, module, "raise_flag"));
    ASSERT_CUDA(cuModuleGetFunction(&work_, module, "softmig_work"));
    ASSERT_CUDA(cuStreamCreate(&a_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(cuStreamCreate(&b_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(cuMemHostAlloc(&host, 4096, 0));
    flag_ = static_cast<volatile uint32_t*>(host);
    *flag_ = 0;
    ASSERT_CUDA(cuMemHostGetDevicePointer_v2(&address_, host, 0));
    ASSERT_CUDA(cuMemAlloc_v2(&sink_, 8));
    ASSERT_CUDA(cuMemsetD8_v2(sink_, 0, 8));
  }
  CUresult with_flag(CUfunction function, CUstream stream, uint32_t value) {
    void* params[] = {&address_, &value};
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }
  CUresult spin(unsigned int us, CUstream stream) {
    void* params[] = {&us};
    return cuLaunchKernel(spin_, 264, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }
  CUresult work(uint64_t steps, unsigned int blocks, CUstream stream) {
    void* params[] = {&steps, &sink_};
    return cuLaunchKernel(work_, blocks, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }
  uint64_t sum() {
    uint64_t value = 0;
    EXPECT_CUDA(cuMemcpyDtoH_v2(&value, sink_, sizeof value));
    return value;
  }
  // Still so after a while.
  void expect_waiting(CUstream stream) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  }

  CUfunction spin_ = nullptr, await_ = nullptr, raise_ = nullptr, work_ = nullptr;
  CUstream a_ = nullptr, b_ = nullptr;
  CUdeviceptr address_ = 0, sink_ = 0;
  volatile uint32_t* flag_ = nullptr;
};

TEST_F(SignalTest, AStreamWaitsForAThread) {
  ASSERT_CUDA(cuStreamWaitValue32_v2(a_, address_, 3, CU_STREAM_WAIT_VALUE_GEQ));
  ASSERT_CUDA(spin(100, a_));
  expect_waiting(a_);
  *flag_ = 2;
  expect_waiting(a_);
  // It takes no part of the device.
  EXPECT_CUDA(spin(100, b_));
  EXPECT_CUDA(cuStreamSynchronize(b_));
  std::thread later([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    *flag_ = 3;
  });
  EXPECT_CUDA(cuStreamSynchronize(a_));
  EXPECT_EQ(*flag_, 3u);
  later.join();
}

TEST_F(SignalTest, AStreamWaitsForAnother) {
  ASSERT_CUDA(cuStreamWaitValue64_v2(a_, address_, 7, CU_STREAM_WAIT_VALUE_EQ));
  ASSERT_CUDA(spin(30000, b_));
  ASSERT_CUDA(cuStreamWriteValue64_v2(b_, address_, 7, 0));
  EXPECT_EQ(*flag_, 0u) << "written before its turn";
  EXPECT_CUDA(cuStreamSynchronize(a_));
  EXPECT_EQ(*flag_, 7u);
}

TEST_F(SignalTest, EveryComparison) {
  const struct {
    unsigned int flags;
    uint32_t wanted, too_little, enough;
  } rows[] = {{CU_STREAM_WAIT_VALUE_GEQ, 5, 4, 6},
              {CU_STREAM_WAIT_VALUE_GEQ, 1, 0xffffffff, 2},  // cyclic
              {CU_STREAM_WAIT_VALUE_EQ, 5, 6, 5},
              {CU_STREAM_WAIT_VALUE_AND, 6, 9, 2},
              {CU_STREAM_WAIT_VALUE_NOR, 0xfffffff0, 0xf, 7}};
  for (const auto& row : rows) {
    *flag_ = row.too_little;
    ASSERT_CUDA(cuStreamWaitValue32_v2(a_, address_, row.wanted, row.flags));
    expect_waiting(a_);
    *flag_ = row.enough;
    EXPECT_CUDA(cuStreamSynchronize(a_));
  }
  EXPECT_EQ(cuStreamWaitValue32_v2(a_, address_, 0, 4), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuStreamWaitValue32_v2(a_, address_ + 1, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuStreamWriteValue32_v2(a_, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(SignalTest, KernelsWaitForEachOther) {
  ASSERT_CUDA(with_flag(await_, a_, 1));
  ASSERT_CUDA(spin(100, a_));
  expect_waiting(a_);
  // The kernel of one block leaves room for others.
  ASSERT_CUDA(spin(20000, b_));
  ASSERT_CUDA(with_flag(raise_, b_, 1));
  EXPECT_EQ(*flag_, 0u) << "written before its turn";
  EXPECT_CUDA(cuStreamSynchronize(a_));
  EXPECT_CUDA(cuStreamSynchronize(b_));
  EXPECT_EQ(*flag_, 1u);
  EXPECT_CUDA(with_flag(await_, a_, 1));
  EXPECT_CUDA(cuCtxSynchronize());
}

TEST_F(SignalTest, AContextEndsThatNobodyWaitsFor) {
  CUcontext second = nullptr;
  CUstream stream = nullptr;
  ASSERT_CUDA(cuCtxCreate_v2(&second, 0, device_));
  ASSERT_CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  ASSERT_CUDA(cuStreamWaitValue32_v2(stream, address_, 1, CU_STREAM_WAIT_VALUE_GEQ));
  std::thread later([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    *flag_ = 1;
  });
  EXPECT_CUDA(cuCtxDestroy_v2(second));
  later.join();
  ASSERT_CUDA(cuCtxSetCurrent(context_));
  EXPECT_CUDA(spin(100, a_));
  EXPECT_CUDA(cuStreamSynchronize(a_));
}

uint32_t stepped(uint32_t x, uint64_t steps) {
  for (; steps > 0; --steps) x = x * 1664525 + 1013904223;
  return x;
}

TEST_F(SignalTest, WorkLeavesItsSum) {
  uint64_t expected = 0;
  for (const uint64_t steps : {0, 1, 5, 1000}) {
    for (uint32_t block = 0; block < 3; ++block) expected += stepped(block, steps);
    ASSERT_CUDA(work(steps, 3, a_));
  }
  EXPECT_EQ(sum(), expected);
}

TEST_F(SignalTest, CapturedWorkLeavesItWhenTheGraphRuns) {
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuStreamBeginCapture_v2(a_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_CUDA(work(10, 1, a_));
  ASSERT_CUDA(work(20, 1, a_));
  EXPECT_EQ(with_flag(await_, a_, 1), CUDA_ERROR_NOT_SUPPORTED);
  ASSERT_CUDA(cuStreamEndCapture(a_, &graph));
  ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
  EXPECT_EQ(sum(), 0u);
  for (int i = 0; i < 2; ++i) ASSERT_CUDA(cuGraphLaunch(exec, a_));
  EXPECT_EQ(sum(), 2 * (uint64_t{stepped(0, 10)} + stepped(0, 20)));
}

TEST_F(SignalTest, ACaptureGoesOnInAGraph) {
  CUgraph graph = nullptr, ended = nullptr;
  CUgraphNode nodes[4] = {};
  size_t count = 4;
  ASSERT_CUDA(cuGraphCreate(&graph, 0));
  ASSERT_CUDA(
      cuStreamBeginCaptureToGraph(a_, graph, nullptr, nullptr, 0, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_CUDA(work(10, 1, a_));
  ASSERT_CUDA(cuStreamEndCapture(a_, &ended));
  EXPECT_EQ(ended, graph);
  ASSERT_CUDA(cuGraphGetNodes(graph, nodes, &count));
  ASSERT_EQ(count, 1u);
  ASSERT_CUDA(
      cuStreamBeginCaptureToGraph(b_, graph, nodes, nullptr, 1, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_CUDA(work(10, 1, b_));
  ASSERT_CUDA(cuStreamEndCapture(b_, &ended));
  ASSERT_CUDA(cuGraphGetNodes(graph, nullptr, &count));
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(
      cuStreamBeginCaptureToGraph(a_, nullptr, nullptr, nullptr, 0, CU_STREAM_CAPTURE_MODE_GLOBAL),
      CUDA_ERROR_INVALID_VALUE);
}

TEST_F(SignalTest, AConditionDecides) {
  for (const unsigned int value : {0u, 1u}) {
    CUgraph graph = nullptr;
    CUgraphConditionalHandle handle = 0;
    CUgraphNodeParams params{};
    CUgraphNode node = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_CUDA(cuGraphCreate(&graph, 0));
    ASSERT_CUDA(cuGraphConditionalHandleCreate(&handle, graph, context_, value,
                                               CU_GRAPH_COND_ASSIGN_DEFAULT));
    params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
    params.conditional.handle = handle;
    params.conditional.type = CU_GRAPH_COND_TYPE_IF;
    params.conditional.size = 1;
    ASSERT_CUDA(cuGraphAddNode_v2(&node, graph, nullptr, nullptr, 0, &params));
    CUgraph body = params.conditional.phGraph_out[0];
    ASSERT_CUDA(
        cuStreamBeginCaptureToGraph(a_, body, nullptr, nullptr, 0, CU_STREAM_CAPTURE_MODE_GLOBAL));
    ASSERT_CUDA(work(10, 1, a_));
    ASSERT_CUDA(cuStreamEndCapture(a_, &body));
    ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
    const uint64_t before = sum();
    ASSERT_CUDA(cuGraphLaunch(exec, a_));
    EXPECT_CUDA(cuStreamSynchronize(a_));
    EXPECT_EQ(sum() - before, value * uint64_t{stepped(0, 10)});
  }
}

}  // namespace
}  // namespace softmig::sim_test
