#include "driver/graph.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace softmig::sim {
namespace {

constexpr unsigned int kMostParts = 64;
constexpr unsigned long long kKnownFlags =
    CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
    CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;

// A handle of cuGraphConditionalHandleCreate.
struct Condition {
  static constexpr Mark kMark = kCondition;
  Mark mark = kCondition;
  Graph* graph = nullptr;
  unsigned int value = 0;
};

// --- making graphs

CUresult check_dependencies(Graph* graph, const CUgraphNode* list, size_t count,
                            std::vector<Node*>* out) {
  if (graph == nullptr || (list == nullptr && count != 0)) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    auto* node = live<Node>(list[i]);
    if (node == nullptr || node->graph != graph) return CUDA_ERROR_INVALID_VALUE;
    out->push_back(node);
  }
  return CUDA_SUCCESS;
}

CUresult finish(Node* node, std::vector<Node*> dependencies, CUgraphNode* out) {
  node->dependencies = std::move(dependencies);
  if (out != nullptr) *out = reinterpret_cast<CUgraphNode>(node);
  return CUDA_SUCCESS;
}

Device* device_of(const CUmemPoolProps& props, CUresult* code) {
  const bool good = props.allocType == CU_MEM_ALLOCATION_TYPE_PINNED &&
                    props.location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
                    props.handleTypes == CU_MEM_HANDLE_TYPE_NONE;
  Device* device = good ? driver().device(props.location.id) : nullptr;
  *code = device != nullptr ? CUDA_SUCCESS
          : good            ? CUDA_ERROR_INVALID_DEVICE
                            : CUDA_ERROR_INVALID_VALUE;
  return device;
}

CUresult add_alloc(Graph* graph, const std::vector<Node*>& dependencies,
                   const CUmemPoolProps& props, uint64_t bytes, CUdeviceptr* address, Node** out) {
  CUresult code = CUDA_SUCCESS;
  Device* device = device_of(props, &code);
  if (device == nullptr) return code;
  if (bytes == 0 || bytes > (uint64_t{1} << 46)) return CUDA_ERROR_INVALID_VALUE;
  *out = add_alloc_node(graph, device, bytes, dependencies);
  *address = (*out)->address;
  return CUDA_SUCCESS;
}

template <class T>
uint64_t block_count(const T& params) {
  return uint64_t{params.gridDimX} * params.gridDimY * params.gridDimZ;
}

CUresult add_kernel(Call& call, Graph* graph, CUfunction handle, uint64_t blocks, void** params,
                    void** extra, Node** out) {
  CUresult code = CUDA_SUCCESS;
  Context* context = call.context();
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  Function* function = find_function(handle, context, &code);
  if (function == nullptr) return code;
  *out = add_node(graph, CU_GRAPH_NODE_TYPE_KERNEL);
  (*out)->function = function;
  (*out)->work = {kernel_duration(*function, params, extra), fill_of(*context, blocks), 1};
  (*out)->sum = kernel_sum(*function, blocks, params, extra);
  return CUDA_SUCCESS;
}

CUresult add_child(Graph* graph, CUgraph handle, Node** out) {
  auto* child = live<Graph>(handle);
  if (child == nullptr || child == graph) return CUDA_ERROR_INVALID_VALUE;
  if (child->has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
  *out = add_node(graph, CU_GRAPH_NODE_TYPE_GRAPH);
  (*out)->child = clone_graph(*child);
  return CUDA_SUCCESS;
}

// No kernel computes here what a condition is, so it is what launches begin with.
CUresult add_conditional(Graph* graph, CUDA_CONDITIONAL_NODE_PARAMS* params, Node** out) {
  const auto* condition = live<Condition>(reinterpret_cast<void*>(params->handle));
  if (condition == nullptr || condition->graph != graph) return CUDA_ERROR_INVALID_VALUE;
  if (params->type != CU_GRAPH_COND_TYPE_IF || params->size != 1) return CUDA_ERROR_NOT_SUPPORTED;
  *out = add_node(graph, CU_GRAPH_NODE_TYPE_CONDITIONAL);
  (*out)->child = new Graph();
  (*out)->is_skipped = condition->value == 0;
  (*out)->body = reinterpret_cast<CUgraph>((*out)->child);
  params->phGraph_out = &(*out)->body;
  return CUDA_SUCCESS;
}

CUresult add_any(Call& call, Graph* graph, const std::vector<Node*>& dependencies,
                 CUgraphNodeParams* params, Node** out) {
  switch (params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
      const auto& kernel = params->kernel;
      const auto handle =
          kernel.func != nullptr ? kernel.func : reinterpret_cast<CUfunction>(kernel.kern);
      return add_kernel(call, graph, handle, block_count(kernel), kernel.kernelParams, kernel.extra,
                        out);
    }
    case CU_GRAPH_NODE_TYPE_MEMSET:
      *out = add_node(graph, CU_GRAPH_NODE_TYPE_MEMSET);
      (*out)->set = {params->memset.dst, params->memset.value, params->memset.elementSize,
                     params->memset.width * std::max<size_t>(1, params->memset.height)};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
      *out = add_node(graph, CU_GRAPH_NODE_TYPE_HOST);
      (*out)->host_fn = params->host.fn;
      (*out)->host_data = params->host.userData;
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return add_child(graph, params->graph.graph, out);
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
      return add_conditional(graph, &params->conditional, out);
    case CU_GRAPH_NODE_TYPE_EMPTY:
      *out = add_node(graph, CU_GRAPH_NODE_TYPE_EMPTY);
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return add_alloc(graph, dependencies, params->alloc.poolProps, params->alloc.bytesize,
                       &params->alloc.dptr, out);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      *out = add_free_node(graph, params->free.dptr);
      return *out != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult add_with_params(Call& call, CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                         size_t count, CUgraphNodeParams* params) {
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  if (out == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = nullptr;
  if (const CUresult code = add_any(call, graph, dependencies, params, &node)) return code;
  return finish(node, std::move(dependencies), out);
}

CUresult add_kernel_node(Call& call, CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                         size_t count, CUfunction function, uint64_t blocks, void** params,
                         void** extra) {
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  Node* node = nullptr;
  if (const CUresult code = add_kernel(call, graph, function, blocks, params, extra, &node))
    return code;
  return finish(node, std::move(dependencies), out);
}

// --- what a launch does

void prepare(Exec* exec, const Graph& graph) {
  exec->steps.clear();
  exec->memory.clear();
  exec->work = plan_graph(graph, &exec->steps);
  for (const auto& [device, memory] : graph.memory) exec->memory.push_back(memory);
}

CUresult instantiate(Call& call, CUgraphExec* out, CUgraph handle, unsigned long long flags) {
  auto* graph = live<Graph>(handle);
  if (graph == nullptr || out == nullptr || (flags & ~kKnownFlags) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (graph->has_memory_nodes() && graph->instance != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  if (call.forbidden_in_capture()) return call.code();
  auto* exec = new Exec();
  exec->auto_free = (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
  prepare(exec, *graph);
  if (graph->has_memory_nodes()) {
    graph->instance = exec;
    exec->graph = graph;
  } else {
    exec->graph = clone_graph(*graph);
  }
  *out = reinterpret_cast<CUgraphExec>(exec);
  return CUDA_SUCCESS;
}

CUresult map_all(Exec* exec, const Ticket& last) {
  for (const auto& memory : exec->memory) {
    if (!map_graph_memory(memory, last)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return CUDA_SUCCESS;
}

bool free_live(Exec* exec) {
  for (const auto& memory : exec->memory) {
    if (!memory->has_live()) continue;
    if (!exec->auto_free) return false;
    for (auto& chunk : memory->chunks) chunk->live.clear();
  }
  return true;
}

void run(const Exec::Step& step, Stream* stream) {
  switch (step.type) {
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      copy_bytes(step.copy.to, step.copy.from, step.copy.bytes);
      break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      fill_bytes(step.set.to, step.set.value, step.set.width, step.set.count);
      break;
    case CU_GRAPH_NODE_TYPE_HOST:
      stream->host_task = add_host_task(step.host_fn, step.host_data, mark(stream));
      break;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      apply(step.sum);
      break;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      mark_allocated(step.address, step.bytes);
      break;
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      if (Range* range = find_range(step.address)) free_graph_address(range, step.address);
      break;
    default:
      break;
  }
}

// The work up to each host function is an operation of its own, so that they run in their turn.
void run_all(const Exec& exec, Stream* stream) {
  uint64_t at = 0;
  unsigned int parts = 1;
  const auto enqueue_until = [&](uint64_t end) {
    const uint64_t kernels = exec.work.kernels * (end - at) / std::max<uint64_t>(1, exec.work.ns);
    enqueue(stream, {end - at, exec.work.fill, static_cast<unsigned int>(kernels)});
    at = end;
  };
  for (const Exec::Step& step : exec.steps) {
    const bool host = step.type == CU_GRAPH_NODE_TYPE_HOST;
    if (host && step.at_ns > at && parts++ < kMostParts) enqueue_until(step.at_ns);
    run(step, stream);
  }
  if (exec.work.ns > at) enqueue_until(exec.work.ns);
}

CUresult launch(Call& call, CUgraphExec handle, CUstream stream_handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream_with_room(call, stream_handle, per_thread, &code);
  if (stream == nullptr) return code;
  auto* exec = live<Exec>(handle);
  if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture:
      stream->capture->valid = false;
      return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    case Route::kPlain:
      break;
  }
  if (!free_live(exec)) return CUDA_ERROR_INVALID_VALUE;
  if ((code = map_all(exec, {})) != CUDA_SUCCESS) return code;
  follow(stream, exec->last);  // one executable does not overtake itself
  run_all(*exec, stream);
  exec->last = mark(stream);
  return map_all(exec, exec->last);
}

CUresult upload(Call& call, CUgraphExec handle, CUstream stream_handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(stream_handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  auto* exec = live<Exec>(handle);
  if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (route_of(stream, &code) != Route::kPlain) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return map_all(exec, {});
}

CUresult instantiate_with_params(Call& call, CUgraphExec* out, CUgraph graph,
                                 CUDA_GRAPH_INSTANTIATE_PARAMS* params, bool per_thread) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUresult code = instantiate(call, out, graph, params->flags);
  params->hErrNode_out = nullptr;
  params->result_out =
      code == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  if (code == CUDA_SUCCESS && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) {
    code = upload(call, *out, params->hUploadStream, per_thread);
  }
  return code;
}

CUgraphExecUpdateResult update(Exec* exec, Graph* graph) {
  if (exec == nullptr || graph == nullptr) return CU_GRAPH_EXEC_UPDATE_ERROR;
  std::vector<Exec::Step> steps;
  plan_graph(*graph, &steps);
  if (steps.size() != exec->steps.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].type != exec->steps[i].type) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
  }
  if (graph->has_memory_nodes()) return CU_GRAPH_EXEC_UPDATE_ERROR;
  prepare(exec, *graph);
  exec->graph = clone_graph(*graph);
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

}  // namespace

Node* add_node(Graph* graph, CUgraphNodeType type) {
  graph->nodes.push_back(std::make_unique<Node>());
  Node* node = graph->nodes.back().get();
  node->graph = graph;
  node->type = type;
  return node;
}

bool is_ancestor(const Node* node, const Node* of) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open{of};
  while (!open.empty()) {
    const Node* at = open.back();
    open.pop_back();
    for (const Node* before : at->dependencies) {
      if (before == node) return true;
      if (seen.insert(before).second) open.push_back(before);
    }
  }
  return false;
}

Graph* clone_graph(const Graph& graph) {
  auto* copy = new Graph();
  std::unordered_map<const Node*, Node*> twins;
  for (const auto& node : graph.nodes) {
    Node* twin = add_node(copy, node->type);
    *twin = *node;
    twin->graph = copy;
    if (node->child != nullptr) twin->child = clone_graph(*node->child);
    twins[node.get()] = twin;
  }
  for (const auto& node : copy->nodes) {
    for (Node*& before : node->dependencies) before = twins[before];
  }
  return copy;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuGraphCreate(CUgraph* out, unsigned int flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUgraph>(new Graph());
  return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph* out, CUgraph handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* graph = live<Graph>(handle);
  if (out == nullptr || graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (graph->has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
  *out = reinterpret_cast<CUgraph>(clone_graph(*graph));
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (graph->instance != nullptr) graph->instance->graph = nullptr;
  for (const auto& node : graph->nodes) node->mark = kDead;
  graph->memory.clear();
  graph->mark = kDead;
  return CUDA_SUCCESS;
}

CUresult cuGraphAddNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                        std::size_t count, CUgraphNodeParams* params) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code()
                       : add_with_params(call, out, graph, dependencies, count, params);
}

CUresult cuGraphAddNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                           const CUgraphEdgeData*, std::size_t count, CUgraphNodeParams* params) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code()
                       : add_with_params(call, out, graph, dependencies, count, params);
}

CUresult cuGraphConditionalHandleCreate(CUgraphConditionalHandle* out, CUgraph handle, CUcontext,
                                        unsigned int value, unsigned int flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  if (graph == nullptr || out == nullptr || (flags & ~CU_GRAPH_COND_ASSIGN_DEFAULT) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const bool is_assigned = (flags & CU_GRAPH_COND_ASSIGN_DEFAULT) != 0;
  auto* condition = new Condition{kCondition, graph, is_assigned ? value : 0};
  *out = reinterpret_cast<CUgraphConditionalHandle>(condition);
  return CUDA_SUCCESS;
}

CUresult cuGraphAddEmptyNode(CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                             std::size_t count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  return finish(add_node(graph, CU_GRAPH_NODE_TYPE_EMPTY), std::move(dependencies), out);
}

CUresult cuGraphAddKernelNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* list,
                              std::size_t count, const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_kernel_node(call, out, graph, list, count, params->func, block_count(*params),
                         params->kernelParams, params->extra);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* list,
                                 std::size_t count, const CUDA_KERNEL_NODE_PARAMS* params) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto function =
      params->func != nullptr ? params->func : reinterpret_cast<CUfunction>(params->kern);
  return add_kernel_node(call, out, graph, list, count, function, block_count(*params),
                         params->kernelParams, params->extra);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                                  std::size_t count, CUgraph child) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  Node* node = nullptr;
  if (const CUresult code = add_child(graph, child, &node)) return code;
  return finish(node, std::move(dependencies), out);
}

CUresult cuGraphAddMemAllocNode(CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                                std::size_t count, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = nullptr;
  const CUresult code =
      add_alloc(graph, dependencies, params->poolProps, params->bytesize, &params->dptr, &node);
  return code != CUDA_SUCCESS ? code : finish(node, std::move(dependencies), out);
}

CUresult cuGraphAddMemFreeNode(CUgraphNode* out, CUgraph handle, const CUgraphNode* list,
                               std::size_t count, CUdeviceptr address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* graph = live<Graph>(handle);
  std::vector<Node*> dependencies;
  if (const CUresult code = check_dependencies(graph, list, count, &dependencies)) return code;
  Node* node = add_free_node(graph, address);
  return node == nullptr ? CUDA_ERROR_INVALID_VALUE : finish(node, std::move(dependencies), out);
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode handle, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* node = live<Node>(handle);
  if (node == nullptr || node->type != CU_GRAPH_NODE_TYPE_MEM_ALLOC || params == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const auto device =
      std::find_if(driver().devices.begin(), driver().devices.end(),
                   [node](const auto& one) { return one->index == node->chunk->range->device; });
  *params = CUDA_MEM_ALLOC_NODE_PARAMS{};
  params->poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  params->poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, (*device)->ordinal};
  params->bytesize = node->bytes;
  params->dptr = node->address;
  return CUDA_SUCCESS;
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode handle, CUdeviceptr* address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* node = live<Node>(handle);
  if (node == nullptr || node->type != CU_GRAPH_NODE_TYPE_MEM_FREE || address == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  *address = node->address;
  return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* node = live<Node>(handle);
  if (node == nullptr || type == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *type = node->type;
  return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, std::size_t* count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* graph = live<Graph>(handle);
  if (graph == nullptr || count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (nodes != nullptr) {
    for (size_t i = 0; i < *count; ++i) {
      nodes[i] =
          i < graph->nodes.size() ? reinterpret_cast<CUgraphNode>(graph->nodes[i].get()) : nullptr;
    }
  }
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode handle, CUgraph* out) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* node = live<Node>(handle);
  if (node == nullptr || node->child == nullptr || out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUgraph>(node->child);
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiate(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                            std::size_t log_bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (error_node != nullptr) *error_node = nullptr;
  if (log != nullptr && log_bytes != 0) *log = '\0';
  return instantiate(call, out, graph, 0);
}

CUresult cuGraphInstantiate_v2(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                               std::size_t log_bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (error_node != nullptr) *error_node = nullptr;
  if (log != nullptr && log_bytes != 0) *log = '\0';
  return instantiate(call, out, graph, 0);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  Call call(__func__);
  return call.failed() ? call.code() : instantiate(call, out, graph, flags);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  Call call(__func__);
  return call.failed() ? call.code() : instantiate_with_params(call, out, graph, params, false);
}

CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec* out, CUgraph graph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  Call call(__func__);
  return call.failed() ? call.code() : instantiate_with_params(call, out, graph, params, true);
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : upload(call, exec, stream, false);
}

CUresult cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : upload(call, exec, stream, true);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : launch(call, exec, stream, false);
}

CUresult cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : launch(call, exec, stream, true);
}

CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode* error_node,
                           CUgraphExecUpdateResult* result) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (result == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (error_node != nullptr) *error_node = nullptr;
  *result = update(live<Exec>(exec), live<Graph>(graph));
  return *result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS
                                                 : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (info == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *info = {update(live<Exec>(exec), live<Graph>(graph)), nullptr, nullptr};
  return info->result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS
                                                      : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphExecDestroy(CUgraphExec handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* exec = live<Exec>(handle);
  if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (exec->graph != nullptr && exec->graph->instance == exec) exec->graph->instance = nullptr;
  exec->memory.clear();
  exec->mark = kDead;
  return CUDA_SUCCESS;
}

// --- memory of graphs, per device

CUresult cuDeviceGraphMemTrim(CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  trim_graph_memory(device);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice ordinal, CUgraphMem_attribute attribute,
                                      void* value) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (value == nullptr || attribute > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
    return CUDA_ERROR_INVALID_VALUE;
  *static_cast<cuuint64_t*>(value) = graph_attribute(device, attribute);
  return CUDA_SUCCESS;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice ordinal, CUgraphMem_attribute attribute,
                                      void* value) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const bool high = attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH ||
                    attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
  if (value == nullptr || !high || *static_cast<cuuint64_t*>(value) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  reset_graph_high(device);
  return CUDA_SUCCESS;
}
