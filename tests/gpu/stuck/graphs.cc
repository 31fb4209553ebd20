// Graphs whose nodes are graphs, or run on a condition.
#include "stuck/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr int kKernels = 10;

// A graph of kernels one after the other.
CUgraph new_graph(Gpu& gpu, double us, Checks::Report& report) {
  CUgraph graph = nullptr;
  report.result(cu().cuGraphCreate(&graph, 0), CUDA_SUCCESS, "cuGraphCreate");
  uint64_t steps = gpu.steps(us);
  CUdeviceptr sink = gpu.sink();
  void* params[] = {&steps, &sink};
  CUDA_KERNEL_NODE_PARAMS kernel{};
  kernel.func = gpu.work();
  kernel.gridDimX = Gpu::kBlocks;
  kernel.blockDimX = Gpu::kThreads;
  kernel.gridDimY = kernel.gridDimZ = kernel.blockDimY = kernel.blockDimZ = 1;
  kernel.kernelParams = params;
  CUgraphNode last = nullptr;
  for (int i = 0; i < kKernels; ++i) {
    CUgraphNode node = nullptr;
    report.result(cu().cuGraphAddKernelNode_v2(&node, graph, &last, i > 0 ? 1 : 0, &kernel),
                  CUDA_SUCCESS, "cuGraphAddKernelNode");
    last = node;
  }
  return graph;
}

CUgraphExec instantiate(CUgraph graph, Checks::Report& report) {
  CUgraphExec exec = nullptr;
  report.result(cu().cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS,
                "cuGraphInstantiate");
  return exec;
}

// Launches the graph without a pause: its share must be the limit, its kernels must all have run.
void run_graph(Checks::Report& report, Gpu& gpu, CUgraph graph, double us, unsigned int kernels) {
  CUgraphExec exec = instantiate(graph, report);
  if (exec == nullptr) return;
  CUstream stream = gpu.stream();
  Counted before, after;
  if (!count(report, 0, &before)) return;
  uint64_t launched = 0;
  const double share = hungry_share(report, 1.2, us * kernels / 1e3, [&] {
    CUresult code = cu().cuGraphLaunch(exec, stream);
    launched += code == CUDA_SUCCESS;
    if (code == CUDA_SUCCESS) code = cu().cuStreamSynchronize(stream);
    return code;
  });
  gpu.expect(gpu.steps(us), Gpu::kBlocks, launched * kernels);
  gpu.has_right_sum(report);
  if (!count(report, 0, &after)) return;
  report.equal(after.graphs - before.graphs, launched, "graph launches that were counted");
  report.equal(after.launches, before.launches, "kernels that were counted");
  if (share >= 0) expect_share(report, share);
}

// A graph in a graph in a graph.
void child_graphs(Checks::Report& report) {
  constexpr double kUs = 100;
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUgraph inner = new_graph(gpu, kUs, report), middle = nullptr, outer = nullptr;
  CUgraphNode nodes[2] = {}, node = nullptr;
  report.result(cu().cuGraphCreate(&middle, 0), CUDA_SUCCESS, "cuGraphCreate");
  report.result(cu().cuGraphAddChildGraphNode(&nodes[0], middle, nullptr, 0, inner), CUDA_SUCCESS,
                "cuGraphAddChildGraphNode");
  report.result(cu().cuGraphAddChildGraphNode(&nodes[1], middle, &nodes[0], 1, inner), CUDA_SUCCESS,
                "a second child");
  report.result(cu().cuGraphCreate(&outer, 0), CUDA_SUCCESS, "cuGraphCreate");
  report.result(cu().cuGraphAddChildGraphNode(&node, outer, nullptr, 0, middle), CUDA_SUCCESS,
                "the child with children");
  step("child_graphs: running");
  run_graph(report, gpu, outer, kUs, 2 * kKernels);
}

CUgraph add_condition(Checks::Report& report, CUgraph graph, CUcontext context, unsigned int value,
                      CUresult* code) {
  CUgraphConditionalHandle handle = 0;
  *code = cu().cuGraphConditionalHandleCreate(&handle, graph, context, value,
                                              CU_GRAPH_COND_ASSIGN_DEFAULT);
  if (*code != CUDA_SUCCESS) return nullptr;
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  params.conditional.handle = handle;
  params.conditional.type = CU_GRAPH_COND_TYPE_IF;
  params.conditional.size = 1;
  params.conditional.ctx = context;
  CUgraphNode node = nullptr;
  *code = cu().cuGraphAddNode_v2(&node, graph, nullptr, nullptr, 0, &params);
  if (*code != CUDA_SUCCESS) return nullptr;
  report.expect(params.conditional.phGraph_out != nullptr, "a condition without a graph");
  return params.conditional.phGraph_out[0];
}

// One condition that holds, one that does not: the work of one child alone is done and paid for.
void conditional_nodes(Checks::Report& report) {
  constexpr double kUs = 200;
  const Calls& d = cu();
  if (d.cuGraphConditionalHandleCreate == nullptr || d.cuGraphAddNode_v2 == nullptr)
    return report.skip("this driver has no conditional nodes");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUgraph graph = nullptr;
  report.result(d.cuGraphCreate(&graph, 0), CUDA_SUCCESS, "cuGraphCreate");
  CUresult code = CUDA_SUCCESS;
  for (unsigned int value : {1, 0}) {
    CUgraph body = add_condition(report, graph, gpu.context(), value, &code);
    if (code == CUDA_ERROR_NOT_SUPPORTED) return report.skip("conditional nodes: not supported");
    if (!report.result(code, CUDA_SUCCESS, "adding a condition")) return;
    CUgraph kernels = new_graph(gpu, kUs, report);
    CUgraphNode node = nullptr;
    report.result(d.cuGraphAddChildGraphNode(&node, body, nullptr, 0, kernels), CUDA_SUCCESS,
                  "the body of a condition");
  }
  step("conditional_nodes: running");
  run_graph(report, gpu, graph, kUs, kKernels);
}

// Graphs launched on many streams at the gate, also the same one while it is on its way.
void graphs_at_gate(Checks::Report& report) {
  constexpr double kUs = 300;
  constexpr int kStreams = 4, kRounds = 20;
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUgraph graph = new_graph(gpu, kUs, report);
  CUgraphExec execs[] = {instantiate(graph, report), instantiate(graph, report)};
  CUstream streams[kStreams];
  for (CUstream& stream : streams) stream = gpu.stream();
  if (!close_gate(report, gpu, streams[0], 300)) return;
  step("graphs_at_gate: launching");
  for (int i = 0; i < kRounds; ++i)
    report.result(cu().cuGraphLaunch(execs[i % 2], streams[i % kStreams]), CUDA_SUCCESS,
                  "cuGraphLaunch");
  // What is destroyed on its way still runs to its end.
  for (CUgraphExec exec : execs)
    report.result(cu().cuGraphExecDestroy(exec), CUDA_SUCCESS, "cuGraphExecDestroy");
  gpu.expect(gpu.steps(kUs), Gpu::kBlocks, kRounds * kKernels);
  step("graphs_at_gate: waiting");
  gpu.has_right_sum(report);
}

}  // namespace

void add_graph_checks(Checks* checks) {
  add_timed(checks, "child_graphs", 30, child_graphs);
  add_timed(checks, "conditional_nodes", 30, conditional_nodes);
  add_timed(checks, "graphs_at_gate", 30, graphs_at_gate);
}

}  // namespace softmig::gpu_test
