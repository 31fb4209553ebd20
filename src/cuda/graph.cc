// Graphs with memory nodes: the driver takes their memory when they are uploaded or launched, in
// steps of 32 MiB, shares addresses between nodes whose lives do not overlap, and keeps what it has
// until the device's graph memory is trimmed.
#include "cuda/throttle.h"
#include "sys/memory.h"

SM_DRIVER(cuDeviceGraphMemTrim);
SM_DRIVER(cuGraphGetNodes);
SM_DRIVER(cuGraphNodeGetType);
SM_DRIVER(cuGraphMemAllocNodeGetParams);
SM_DRIVER(cuGraphChildGraphNodeGetGraph);
SM_DRIVER(cuDeviceGetGraphMemAttribute);
SM_DRIVER(cuStreamIsCapturing);

namespace softmig::cuda {
namespace {

constexpr uint64_t kStep = 32 * base::kMiB;
constexpr int kMaxDepth = 16;

struct GraphMemory {
  sys::Mutex lock;
  uint64_t reserved = 0;  // charged for what the driver was last seen to hold
  CUdevice ordinal = -1;
};
constinit GraphMemory g_memory[job::kDeviceIndices];
constinit std::atomic<uint64_t> g_trims{1};

// Pages of a kind with the extent of all memory nodes of one graph.
struct Extent {
  uint64_t low = UINT64_MAX, high = 0;  // addresses
  uint64_t sum = 0;                     // bytes, each node in whole pages
  CUdevice ordinal = -1;
  // Nodes that share addresses share memory: never more than they ask for, nor than they span.
  uint64_t bytes() const {
    const uint64_t span = high > low ? high - low : 0;
    return base::round_up(span < sum ? span : sum, kStep);
  }
};

class NodeList {
 public:
  explicit NodeList(CUgraph graph) {
    size_t count = 0;
    if (next_cuGraphGetNodes(graph, nullptr, &count) != CUDA_SUCCESS || count == 0) return;
    bytes_ = count * sizeof(CUgraphNode);
    nodes_ = static_cast<CUgraphNode*>(sys::map_pages(bytes_));
    if (nodes_ != nullptr && next_cuGraphGetNodes(graph, nodes_, &count) == CUDA_SUCCESS) {
      count_ = count;
    }
  }
  ~NodeList() { sys::unmap_pages(nodes_, bytes_); }
  NodeList(const NodeList&) = delete;
  NodeList& operator=(const NodeList&) = delete;
  const CUgraphNode* begin() const { return nodes_; }
  const CUgraphNode* end() const { return nodes_ + count_; }

 private:
  CUgraphNode* nodes_ = nullptr;
  size_t count_ = 0, bytes_ = 0;
};

void add_node(CUgraphNode node, Extent* extent) {
  CUDA_MEM_ALLOC_NODE_PARAMS params = {};
  if (next_cuGraphMemAllocNodeGetParams(node, &params) != CUDA_SUCCESS) return;
  const uint64_t end = base::round_up(params.dptr + params.bytesize, kPage);
  if (params.dptr < extent->low) extent->low = params.dptr;
  if (end > extent->high) extent->high = end;
  extent->sum += in_pages(params.bytesize);
  extent->ordinal = params.poolProps.location.id;
}

void add_graph(CUgraph graph, int depth, Extent* extent) {
  for (CUgraphNode node : NodeList(graph)) {
    CUgraphNodeType type;
    CUgraph child;
    if (next_cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) continue;
    if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) add_node(node, extent);
    if (type == CU_GRAPH_NODE_TYPE_GRAPH && depth < kMaxDepth &&
        next_cuGraphChildGraphNodeGetGraph(node, &child) == CUDA_SUCCESS) {
      add_graph(child, depth + 1, extent);
    }
  }
}

// Record of an executable graph: bytes it may take, detail = number of trims when it last ran.
CUresult keep_exec(CUresult result, CUgraphExec* exec, CUgraph graph) {
  if (result != CUDA_SUCCESS || !active()) return result;
  Extent extent;
  add_graph(graph, 0, &extent);
  if (extent.sum == 0) return result;
  const int device = device_of(extent.ordinal);
  if (device < 0) return result;
  g_memory[device].ordinal = extent.ordinal;
  tables.graphs.insert(reinterpret_cast<uint64_t>(*exec),
                       {extent.bytes(), 0, 0, static_cast<int16_t>(device)});
  return result;
}

void settle(int device) {
  GraphMemory& memory = g_memory[device];
  cuuint64_t reserved = 0;
  memory.lock.lock();
  if (next_cuDeviceGetGraphMemAttribute(memory.ordinal, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT,
                                        &reserved) == CUDA_SUCCESS) {
    if (reserved > memory.reserved) slice().charge(device, reserved - memory.reserved);
    if (reserved < memory.reserved) slice().release(device, memory.reserved - reserved);
    memory.reserved = reserved;
  }
  memory.lock.unlock();
}

bool is_capturing(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return next_cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

template <typename Call>
[[gnu::noinline]] CUresult run_graph(CUgraphExec exec, CUstream stream, Call call) {
  Record record;
  if (tables.graphs.empty() || !tables.graphs.find(reinterpret_cast<uint64_t>(exec), &record) ||
      is_capturing(stream)) {
    return call();
  }
  // A graph that ran since the last trim runs in the memory that is held already.
  const uint64_t trims = g_trims.load(std::memory_order_acquire);
  const uint64_t needed = record.detail == trims ? 0 : record.bytes;
  if (needed != 0 && !reserve(record.device, needed)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  settle(record.device);
  if (needed != 0) slice().release(record.device, needed);
  if (result == CUDA_SUCCESS) {
    tables.graphs.update(reinterpret_cast<uint64_t>(exec), [&](Record& kept) {
      kept.detail = trims;
      return true;
    });
  }
  return result;
}

}  // namespace

bool release_graph_memory(int device) {
  GraphMemory& memory = g_memory[device];
  const uint64_t before = memory.reserved;
  if (before == 0) return false;
  g_trims.fetch_add(1, std::memory_order_acq_rel);
  next_cuDeviceGraphMemTrim(memory.ordinal);
  settle(device);
  return memory.reserved < before;
}

}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::graph_work;
using softmig::cuda::keep_exec;
using softmig::cuda::run_graph;
using softmig::cuda::throttle;
using softmig::cuda::throttles;

SM_HOOK(cuGraphInstantiate, 10000)
CUresult cuGraphInstantiate(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                            size_t log_size) {
  return keep_exec(next_cuGraphInstantiate(out, graph, error_node, log, log_size), out, graph);
}

SM_HOOK(cuGraphInstantiate_v2, 11000)
CUresult cuGraphInstantiate_v2(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                               size_t log_size) {
  return keep_exec(next_cuGraphInstantiate_v2(out, graph, error_node, log, log_size), out, graph);
}

SM_HOOK(cuGraphInstantiateWithFlags, 11040)
CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  return keep_exec(next_cuGraphInstantiateWithFlags(out, graph, flags), out, graph);
}

SM_HOOK(cuGraphInstantiateWithParams, 12000)
CUresult cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return keep_exec(next_cuGraphInstantiateWithParams(out, graph, params), out, graph);
}

SM_HOOK(cuGraphInstantiateWithParams_ptsz, 12000)
CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec* out, CUgraph graph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return keep_exec(next_cuGraphInstantiateWithParams_ptsz(out, graph, params), out, graph);
}

SM_HOOK(cuGraphExecDestroy, 10000) CUresult cuGraphExecDestroy(CUgraphExec exec) {
  softmig::cuda::Record record;
  if (active()) {
    softmig::cuda::tables.graphs.take(reinterpret_cast<uint64_t>(exec), &record);
    softmig::cuda::forget_graph(exec);
  }
  return next_cuGraphExecDestroy(exec);
}

SM_HOOK(cuGraphLaunch, 10000) CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  if (!active()) return next_cuGraphLaunch(exec, stream);
  const auto run = [=] {
    return run_graph(exec, stream, [=] { return next_cuGraphLaunch(exec, stream); });
  };
  if (!throttles()) return run();
  return throttle(stream, false, graph_work(exec), run);
}

SM_HOOK(cuGraphLaunch_ptsz, 10000) CUresult cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
  if (!active()) return next_cuGraphLaunch_ptsz(exec, stream);
  const auto run = [=] {
    return run_graph(exec, stream, [=] { return next_cuGraphLaunch_ptsz(exec, stream); });
  };
  if (!throttles()) return run();
  return throttle(stream, true, graph_work(exec), run);
}

SM_HOOK(cuGraphUpload, 11010) CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
  if (!active()) return next_cuGraphUpload(exec, stream);
  return run_graph(exec, stream, [=] { return next_cuGraphUpload(exec, stream); });
}

SM_HOOK(cuGraphUpload_ptsz, 11010) CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
  if (!active()) return next_cuGraphUpload_ptsz(exec, stream);
  return run_graph(exec, stream, [=] { return next_cuGraphUpload_ptsz(exec, stream); });
}
