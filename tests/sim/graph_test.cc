// Graphs, their memory, and stream capture.
#include <atomic>
#include <thread>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

class GraphTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    ASSERT_CUDA(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(cuModuleLoadData(&module_, ptx_with_array(4).c_str()));
    ASSERT_CUDA(cuModuleGetFunction(&spin_, module_, "spin_us"));
  }
  double attribute(CUgraphMem_attribute which) {
    cuuint64_t value = 0;
    EXPECT_CUDA(cuDeviceGetGraphMemAttribute(0, which, &value));
    return static_cast<double>(value) / kMiB;
  }
  double reserved() { return attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT); }
  double in_use() { return attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT); }
  CUresult add_alloc(CUgraph graph, const CUgraphNode* after, uint64_t bytes, CUgraphNode* node,
                     CUdeviceptr* address) {
    CUDA_MEM_ALLOC_NODE_PARAMS params{};
    params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    params.bytesize = bytes;
    const CUresult code =
        cuGraphAddMemAllocNode(node, graph, after, after != nullptr ? 1 : 0, &params);
    *address = params.dptr;
    return code;
  }
  CUresult spin(unsigned int us, CUstream stream) {
    void* params[] = {&us};
    return cuLaunchKernel(spin_, 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }

  CUstream stream_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction spin_ = nullptr;
};

// The measured sequence.
TEST_F(GraphTest, MemoryIsTakenAtUploadAndKeptUntilTrimmed) {
  const Marked mark;
  CUgraph graph = nullptr;
  CUgraphNode node[3] = {}, freed[2] = {};
  CUdeviceptr address[3] = {};
  ASSERT_CUDA(cuGraphCreate(&graph, 0));
  for (int i = 0; i < 3; ++i) {
    ASSERT_CUDA(
        add_alloc(graph, i > 0 ? &freed[i - 1] : nullptr, 100 * kMiB, &node[i], &address[i]));
    if (i == 2) break;
    ASSERT_CUDA(cuGraphAddMemFreeNode(&freed[i], graph, &node[i], 1, address[i]));
  }
  EXPECT_EQ(address[1], address[0]) << "the place of what was freed before";
  EXPECT_EQ(mark.used(), 0);
  CUgraphExec exec = nullptr, second = nullptr;
  ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
  EXPECT_EQ(cuGraphInstantiateWithFlags(&second, graph, 0), CUDA_ERROR_NOT_SUPPORTED)
      << "one at a time";
  EXPECT_EQ(mark.used(), 0);
  const auto expect = [&](double mib) {
    EXPECT_EQ(reserved(), mib);
    EXPECT_EQ(in_use(), mib);
    EXPECT_EQ(mark.used(), mib);
    EXPECT_EQ(mark.listed(), mib);
  };
  ASSERT_CUDA(cuGraphUpload(exec, stream_));
  expect(128);
  ASSERT_CUDA(cuGraphLaunch(exec, stream_));
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  expect(128);
  EXPECT_EQ(cuGraphLaunch(exec, stream_), CUDA_ERROR_INVALID_VALUE) << "its allocation lives";
  ASSERT_CUDA(cuDeviceGraphMemTrim(0));
  expect(128);
  ASSERT_CUDA(cuMemsetD8_v2(address[2], 1, 100 * kMiB));
  ASSERT_CUDA(cuMemFree_v2(address[2]));
  expect(128);
  ASSERT_CUDA(cuDeviceGraphMemTrim(0));
  expect(0);
  ASSERT_CUDA(cuGraphLaunch(exec, stream_));
  expect(128);
  ASSERT_CUDA(cuGraphExecDestroy(exec));
  ASSERT_CUDA(cuGraphDestroy(graph));
  expect(128);
  ASSERT_CUDA(cuMemFreeAsync(address[2], stream_));
  expect(128);
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  ASSERT_CUDA(cuDeviceGraphMemTrim(0));
  expect(0);
  EXPECT_EQ(attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH), 128);
  cuuint64_t zero = 0;
  ASSERT_CUDA(cuDeviceSetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH, &zero));
  EXPECT_EQ(attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH), 0);
}

TEST_F(GraphTest, AutoFreeAllowsTheNextLaunch) {
  CUgraph graph = nullptr;
  CUgraphNode node = nullptr;
  CUdeviceptr address = 0;
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuGraphCreate(&graph, 0));
  ASSERT_CUDA(add_alloc(graph, nullptr, kMiB, &node, &address));
  ASSERT_CUDA(
      cuGraphInstantiateWithFlags(&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
  EXPECT_CUDA(cuGraphLaunch(exec, stream_));
  EXPECT_CUDA(cuGraphLaunch(exec, stream_));
  EXPECT_EQ(reserved(), 32);
}

TEST_F(GraphTest, ALaunchIsRefusedWhereThereIsNoMemory) {
  CUgraph graph = nullptr;
  CUgraphNode node = nullptr;
  CUdeviceptr address = 0;
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuGraphCreate(&graph, 0));
  ASSERT_CUDA(add_alloc(graph, nullptr, 100 * kGiB, &node, &address));
  ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
  const Marked mark;
  EXPECT_EQ(cuGraphUpload(exec, stream_), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(cuGraphLaunch(exec, stream_), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(mark.used(), 0);
}

TEST_F(GraphTest, TimeIsThatOfTheLongestPath) {
  CUgraph graph = nullptr, inner = nullptr;
  CUgraphNode a = nullptr, b = nullptr, c = nullptr;
  unsigned int us = 30000;
  void* values[] = {&us};
  CUDA_KERNEL_NODE_PARAMS kernel{};
  kernel.func = spin_;
  kernel.gridDimX = kernel.gridDimY = kernel.gridDimZ = kernel.blockDimX = kernel.blockDimY =
      kernel.blockDimZ = 1;
  kernel.kernelParams = values;
  ASSERT_CUDA(cuGraphCreate(&graph, 0));
  ASSERT_CUDA(cuGraphCreate(&inner, 0));
  ASSERT_CUDA(cuGraphAddKernelNode_v2(&c, inner, nullptr, 0, &kernel));
  ASSERT_CUDA(cuGraphAddKernelNode_v2(&a, graph, nullptr, 0, &kernel));
  ASSERT_CUDA(cuGraphAddKernelNode_v2(&b, graph, nullptr, 0, &kernel));
  ASSERT_CUDA(cuGraphAddChildGraphNode(&c, graph, &a, 1, inner));
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuGraphInstantiate_v2(&exec, graph, nullptr, nullptr, 0));
  CUevent begin = nullptr, end = nullptr;
  ASSERT_CUDA(cuEventCreate(&begin, 0));
  ASSERT_CUDA(cuEventCreate(&end, 0));
  expect_takes(60, [&] {
    float ms = 0;
    EXPECT_CUDA(cuEventRecord(begin, stream_));
    EXPECT_CUDA(cuGraphLaunch(exec, stream_));
    EXPECT_CUDA(cuEventRecord(end, stream_));
    EXPECT_CUDA(cuEventSynchronize(end));
    EXPECT_CUDA(cuEventElapsedTime(&ms, begin, end));
    return ms;
  });
  CUDA_GRAPH_INSTANTIATE_PARAMS params{};
  params.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
  params.hUploadStream = stream_;
  CUgraphExec other = nullptr;
  EXPECT_CUDA(cuGraphInstantiateWithParams(&other, graph, &params));
  EXPECT_EQ(params.result_out, CUDA_GRAPH_INSTANTIATE_SUCCESS);
  CUgraphExecUpdateResultInfo info{};
  EXPECT_CUDA(cuGraphExecUpdate_v2(other, graph, &info));
  EXPECT_EQ(cuGraphExecUpdate_v2(other, inner, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
  EXPECT_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
}

// The measured sequence: asking the pool ends the capture, asking for the free memory does not.
TEST_F(GraphTest, UnsafeCallsEndACapture) {
  CUdeviceptr address = 0, other = 0;
  CUmemoryPool pool = nullptr;
  cuuint64_t value = 0;
  size_t free_bytes = 0, total = 0;
  CUgraph graph = nullptr;
  ASSERT_CUDA(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_CUDA(cuMemAllocAsync(&address, 50 * kMiB, stream_));
  EXPECT_CUDA(cuDeviceGetMemPool(&pool, 0));
  EXPECT_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &value),
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_CUDA(cuMemGetInfo_v2(&free_bytes, &total));
  EXPECT_EQ(cuMemAlloc_v2(&other, kMiB), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(cuMemFreeAsync(address, stream_), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CUstreamCaptureStatus status{};
  EXPECT_CUDA(cuStreamIsCapturing(stream_, &status));
  EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
  EXPECT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_EQ(graph, nullptr);
  EXPECT_CUDA(cuMemAlloc_v2(&other, kMiB)) << "all is well again";
}

TEST_F(GraphTest, ModesSayWhoMayCallWhat) {
  const auto alloc = [](CUstreamCaptureMode mode) {
    CUdeviceptr address = 0;
    CUstreamCaptureMode exchanged = mode;
    EXPECT_CUDA(cuThreadExchangeStreamCaptureMode(&exchanged));
    const CUresult code = cuMemAlloc_v2(&address, 1);
    EXPECT_CUDA(cuThreadExchangeStreamCaptureMode(&exchanged));
    EXPECT_EQ(exchanged, mode);
    return code;
  };
  constexpr auto kGlobal = CU_STREAM_CAPTURE_MODE_GLOBAL;
  constexpr auto kLocal = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
  constexpr auto kRelaxed = CU_STREAM_CAPTURE_MODE_RELAXED;
  const struct {
    CUstreamCaptureMode capture, thread;
    bool here, elsewhere;  // allowed
  } rows[] = {{kGlobal, kGlobal, false, false}, {kGlobal, kLocal, false, true},
              {kGlobal, kRelaxed, true, true},  {kLocal, kGlobal, false, true},
              {kLocal, kRelaxed, true, true},   {kRelaxed, kGlobal, true, true}};
  for (const auto& row : rows) {
    for (bool here : {true, false}) {
      CUgraph graph = nullptr;
      ASSERT_CUDA(cuStreamBeginCapture_v2(stream_, row.capture));
      CUresult code = CUDA_SUCCESS;
      if (here) {
        code = alloc(row.thread);
      } else {
        std::thread([&] {
          EXPECT_CUDA(cuCtxSetCurrent(context_));
          code = alloc(row.thread);
        }).join();
      }
      const bool allowed = here ? row.here : row.elsewhere;
      EXPECT_EQ(code, allowed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
          << "capture " << row.capture << " thread " << row.thread << " here " << here;
      EXPECT_EQ(cuStreamEndCapture(stream_, &graph),
                allowed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
  }
}

TEST_F(GraphTest, WhatIsCapturedRunsWhenTheGraphIsLaunched) {
  CUdeviceptr plain = 0, address = 0;
  ASSERT_CUDA(cuMemAlloc_v2(&plain, 100));
  CUgraph graph = nullptr;
  std::atomic<int> calls{0};
  const Marked mark;
  ASSERT_CUDA(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  ASSERT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  ASSERT_CUDA(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  ASSERT_CUDA(cuMemAllocAsync(&address, 10 * kMiB, stream_));
  ASSERT_CUDA(cuMemsetD8Async(plain, 5, 100, stream_));
  ASSERT_CUDA(spin(1000, stream_));
  ASSERT_CUDA(cuLaunchHostFunc(
      stream_, [](void* data) { static_cast<std::atomic<int>*>(data)->fetch_add(1); }, &calls));
  ASSERT_CUDA(cuMemFreeAsync(address, stream_));
  ASSERT_CUDA(cuStreamEndCapture(stream_, &graph));
  size_t count = 0;
  ASSERT_CUDA(cuGraphGetNodes(graph, nullptr, &count));
  EXPECT_EQ(count, 5u);
  std::vector<CUgraphNode> nodes(count);
  ASSERT_CUDA(cuGraphGetNodes(graph, nodes.data(), &count));
  CUgraphNodeType type{};
  ASSERT_CUDA(cuGraphNodeGetType(nodes[0], &type));
  EXPECT_EQ(type, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  ASSERT_CUDA(cuGraphMemAllocNodeGetParams(nodes[0], &params));
  EXPECT_EQ(params.dptr, address);
  EXPECT_EQ(params.bytesize, 10 * kMiB);
  EXPECT_EQ(mark.used(), 0);
  EXPECT_EQ(calls, 0);
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
  ASSERT_CUDA(cuGraphLaunch(exec, stream_));
  ASSERT_CUDA(cuGraphLaunch(exec, stream_)) << "it frees its memory itself";
  ASSERT_CUDA(cuStreamSynchronize(stream_));
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(mark.used(), 32);
  char byte = 0;
  ASSERT_CUDA(cuMemcpyDtoH_v2(&byte, plain, 1));
  EXPECT_EQ(byte, 5);
}

TEST_F(GraphTest, OtherStreamsJoinByEvents) {
  CUstream other = nullptr;
  CUevent fork = nullptr, join = nullptr;
  CUgraph graph = nullptr;
  ASSERT_CUDA(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  ASSERT_CUDA(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  ASSERT_CUDA(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  for (bool joined : {true, false}) {
    ASSERT_CUDA(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL));
    ASSERT_CUDA(spin(1, stream_));
    ASSERT_CUDA(cuEventRecord(fork, stream_));
    ASSERT_CUDA(cuStreamWaitEvent(other, fork, 0));
    ASSERT_CUDA(spin(1, other));
    CUstreamCaptureStatus status{};
    ASSERT_CUDA(cuStreamIsCapturing(other, &status));
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    if (joined) {
      ASSERT_CUDA(cuEventRecord(join, other));
      ASSERT_CUDA(cuStreamWaitEvent(stream_, join, 0));
    }
    EXPECT_EQ(cuStreamEndCapture(stream_, &graph),
              joined ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    ASSERT_CUDA(cuStreamIsCapturing(other, &status));
    EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_NONE);
  }
}

}  // namespace
}  // namespace softmig::sim_test
