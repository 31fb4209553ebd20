// Every way to launch, and every kind of stream: the region counts each launch once, the share is
// the limit, and the sum is right.
#include <algorithm>
#include <thread>

#include "launches/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr double kUs = 500;
constexpr int kBatch = 4, kGraphKernels = 4;

// What a route launches with.
struct Shot {
  Gpu* gpu;
  CUstream stream;
  uint64_t steps;
  void** params;
  CUgraphExec exec;
};

using Launch = CUresult (*)(const Shot&);

// A way to launch. `missing`: the driver lacks the function.
struct Route {
  const char* name;
  unsigned int blocks;
  bool is_graph;
  bool is_old;  // drivers may have given it up
  bool (*missing)();
  Launch launch;
};

CUlaunchConfig config_of(const Shot& shot) {
  CUlaunchConfig config{};
  config.gridDimX = Gpu::kBlocks;
  config.blockDimX = Gpu::kThreads;
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.hStream = shot.stream;
  return config;
}

CUresult by_kernel(const Shot& s) {
  return cu().cuLaunchKernel(s.gpu->work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0, s.stream,
                             s.params, nullptr);
}

CUresult by_kernel_ptsz(const Shot& s) {
  return cu().cuLaunchKernel_ptsz(s.gpu->work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0,
                                  s.stream, s.params, nullptr);
}

// Parameters in one buffer instead of one by one.
CUresult by_buffer(const Shot& s) {
  uint64_t buffer[] = {s.steps, s.gpu->sink()};
  size_t bytes = sizeof buffer;
  void* extra[] = {reinterpret_cast<void*>(1), buffer, reinterpret_cast<void*>(2), &bytes, nullptr};
  return cu().cuLaunchKernel(s.gpu->work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0, s.stream,
                             nullptr, extra);
}

CUresult by_ex(const Shot& s) {
  const CUlaunchConfig config = config_of(s);
  return cu().cuLaunchKernelEx(&config, s.gpu->work(), s.params, nullptr);
}

CUresult by_ex_ptsz(const Shot& s) {
  const CUlaunchConfig config = config_of(s);
  return cu().cuLaunchKernelEx_ptsz(&config, s.gpu->work(), s.params, nullptr);
}

CUresult by_ex_cooperative(const Shot& s) {
  CUlaunchConfig config = config_of(s);
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attribute.value.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cu().cuLaunchKernelEx(&config, s.gpu->work(), s.params, nullptr);
}

CUresult by_cooperative(const Shot& s) {
  return cu().cuLaunchCooperativeKernel(s.gpu->work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0,
                                        s.stream, s.params);
}

CUresult by_cooperative_ptsz(const Shot& s) {
  return cu().cuLaunchCooperativeKernel_ptsz(s.gpu->work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1,
                                             0, s.stream, s.params);
}

CUresult by_multi_device(const Shot& s) {
  CUDA_LAUNCH_PARAMS one{};
  one.function = s.gpu->work();
  one.gridDimX = Gpu::kBlocks;
  one.blockDimX = Gpu::kThreads;
  one.gridDimY = one.gridDimZ = one.blockDimY = one.blockDimZ = 1;
  one.hStream = s.stream;
  one.kernelParams = s.params;
  return cu().cuLaunchCooperativeKernelMultiDevice(&one, 1, 0);
}

// The launches of CUDA 3: parameters and the shape of blocks belong to the function.
CUresult set_old(const Shot& s) {
  const Calls& d = cu();
  uint64_t values[] = {s.steps, s.gpu->sink()};
  CUresult code = d.cuFuncSetBlockShape(s.gpu->work(), Gpu::kThreads, 1, 1);
  if (code == CUDA_SUCCESS) code = d.cuParamSetSize(s.gpu->work(), sizeof values);
  if (code == CUDA_SUCCESS) code = d.cuParamSetv(s.gpu->work(), 0, values, sizeof values);
  return code;
}

CUresult by_old_launch(const Shot& s) {
  const CUresult code = set_old(s);
  return code != CUDA_SUCCESS ? code : cu().cuLaunch(s.gpu->work());
}

CUresult by_old_grid(const Shot& s) {
  const CUresult code = set_old(s);
  return code != CUDA_SUCCESS ? code : cu().cuLaunchGrid(s.gpu->work(), Gpu::kBlocks, 1);
}

CUresult by_old_grid_async(const Shot& s) {
  const CUresult code = set_old(s);
  if (code != CUDA_SUCCESS) return code;
  return cu().cuLaunchGridAsync(s.gpu->work(), Gpu::kBlocks, 1, s.stream);
}

CUresult by_graph(const Shot& s) { return cu().cuGraphLaunch(s.exec, s.stream); }
CUresult by_graph_ptsz(const Shot& s) { return cu().cuGraphLaunch_ptsz(s.exec, s.stream); }

bool has_all_old() {
  return cu().cuFuncSetBlockShape != nullptr && cu().cuParamSetSize != nullptr &&
         cu().cuParamSetv != nullptr;
}

constexpr bool (*kAlways)() = [] { return false; };

const Route kRoutes[] = {
    {"kernel", Gpu::kBlocks, false, false, kAlways, by_kernel},
    {"kernel_ptsz", Gpu::kBlocks, false, false, kAlways, by_kernel_ptsz},
    {"kernel_buffer", Gpu::kBlocks, false, false, kAlways, by_buffer},
    {"ex", Gpu::kBlocks, false, false, [] { return cu().cuLaunchKernelEx == nullptr; }, by_ex},
    {"ex_ptsz", Gpu::kBlocks, false, false, [] { return cu().cuLaunchKernelEx_ptsz == nullptr; },
     by_ex_ptsz},
    {"ex_cooperative", Gpu::kBlocks, false, false, [] { return cu().cuLaunchKernelEx == nullptr; },
     by_ex_cooperative},
    {"cooperative", Gpu::kBlocks, false, false, kAlways, by_cooperative},
    {"cooperative_ptsz", Gpu::kBlocks, false, false, kAlways, by_cooperative_ptsz},
    {"multi_device", Gpu::kBlocks, false, true,
     [] { return cu().cuLaunchCooperativeKernelMultiDevice == nullptr; }, by_multi_device},
    {"old_launch", 1, false, true, [] { return cu().cuLaunch == nullptr || !has_all_old(); },
     by_old_launch},
    {"old_grid", Gpu::kBlocks, false, true,
     [] { return cu().cuLaunchGrid == nullptr || !has_all_old(); }, by_old_grid},
    {"old_grid_async", Gpu::kBlocks, false, true,
     [] { return cu().cuLaunchGridAsync == nullptr || !has_all_old(); }, by_old_grid_async},
    {"graph", Gpu::kBlocks, true, false, kAlways, by_graph},
    {"graph_ptsz", Gpu::kBlocks, true, false, kAlways, by_graph_ptsz},
};

const Route* find_route(std::string_view name) {
  const auto* found = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                   [name](const Route& route) { return route.name == name; });
  return found != std::end(kRoutes) ? found : nullptr;
}

CUgraphExec capture_graph(Checks::Report& report, Shot shot) {
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  shot.stream = shot.gpu->stream();
  report.result(cu().cuStreamBeginCapture_v2(shot.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
                CUDA_SUCCESS, "cuStreamBeginCapture");
  for (int i = 0; i < kGraphKernels; ++i)
    report.result(by_kernel(shot), CUDA_SUCCESS, "a launch into a capture");
  report.result(cu().cuStreamEndCapture(shot.stream, &graph), CUDA_SUCCESS, "cuStreamEndCapture");
  report.result(cu().cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS,
                "cuGraphInstantiate");
  return exec;
}

// Exactly these launches were counted, and the time that they took, neither far less nor far more.
void expect_charged(Checks::Report& report, const Route& route, const Counted& before,
                    uint64_t launched, double gpu_ms) {
  Counted after;
  if (!count(report, 0, &after)) return;
  const uint64_t kernels = after.launches - before.launches, graphs = after.graphs - before.graphs;
  report.equal(route.is_graph ? graphs : kernels, launched, "launches that were counted");
  report.equal(route.is_graph ? kernels : graphs, 0, "launches counted as something else");
  const double charged = static_cast<double>(after.gpu_ns - before.gpu_ns) / 1e6;
  report.note("charged_of_used", charged / gpu_ms);
  report.expect(charged > 0.85 * gpu_ms && charged < 1.2 * gpu_ms,
                "charged " + std::to_string(charged) + " ms for " + std::to_string(gpu_ms));
}

// Launches by a route into a stream: first a few that nothing holds back, then without a pause.
void run(Checks::Report& report, Gpu& gpu, const Route& route, CUstream stream) {
  uint64_t steps = gpu.steps(kUs, route.blocks);
  CUdeviceptr sink = gpu.sink();
  void* params[] = {&steps, &sink};
  Shot shot{&gpu, stream, steps, params, nullptr};
  const int kernels = route.is_graph ? kGraphKernels : 1;
  if (route.is_graph) shot.exec = capture_graph(report, shot);
  Counted before;
  if (!report.is_good() || !count(report, 0, &before)) return;
  step("the first launch");
  const CUresult code = route.launch(shot);
  if (route.is_old && (code == CUDA_ERROR_NOT_SUPPORTED || code == CUDA_ERROR_NOT_FOUND))
    return report.skip("this driver has given the function up");
  if (!report.result(code, CUDA_SUCCESS, "the first launch")) return;
  uint64_t launched = 1;
  step("launching without a pause");
  const double share = hungry_share(report, 1, kBatch * kernels * kUs / 1e3, [&] {
    CUresult result = CUDA_SUCCESS;
    for (int i = 0; i < kBatch && result == CUDA_SUCCESS; ++i) {
      result = route.launch(shot);
      launched += result == CUDA_SUCCESS;
    }
    return result == CUDA_SUCCESS ? cu().cuCtxSynchronize() : result;
  });
  gpu.expect(steps, route.blocks, launched * kernels);
  step("comparing the sum");
  gpu.has_right_sum(report);
  expect_charged(report, route, before, launched,
                 static_cast<double>(launched) * kernels * kUs / 1e3);
  if (share >= 0) expect_share(report, share);
}

void by_route(Checks::Report& report, const Route& route) {
  if (route.missing()) return report.skip("this driver has no such function");
  Gpu gpu;
  if (!gpu.open(report)) return;
  run(report, gpu, route, gpu.stream());
}

// --- streams

CUstream kept_stream(CUstream stream, CUresult code, Checks::Report& report) {
  report.result(code, CUDA_SUCCESS, "making the stream");
  return stream;
}

CUstream priority_stream(const Gpu&, Checks::Report& report) {
  int least = 0, greatest = 0;
  CUstream stream = nullptr;
  report.result(cu().cuCtxGetStreamPriorityRange(&least, &greatest), CUDA_SUCCESS,
                "cuCtxGetStreamPriorityRange");
  const CUresult code = cu().cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, greatest);
  return kept_stream(stream, code, report);
}

// Of a green context that has half of the multiprocessors; null: the driver has none.
CUstream green_stream(const Gpu& gpu, Checks::Report& report) {
  const Calls& d = cu();
  if (d.cuGreenCtxStreamCreate == nullptr || d.cuGreenCtxCreate == nullptr) {
    report.skip("this driver has no green contexts");
    return nullptr;
  }
  CUdevResource all{}, half[2]{}, rest{};
  CUdevResourceDesc description = nullptr;
  CUgreenCtx green = nullptr;
  CUstream stream = nullptr;
  unsigned int groups = 1;
  const bool good =
      report.result(d.cuDeviceGetDevResource(gpu.device(), &all, CU_DEV_RESOURCE_TYPE_SM),
                    CUDA_SUCCESS, "cuDeviceGetDevResource") &&
      report.result(
          d.cuDevSmResourceSplitByCount(half, &groups, &all, &rest, 0, all.sm.smCount / 2),
          CUDA_SUCCESS, "cuDevSmResourceSplitByCount") &&
      report.result(d.cuDevResourceGenerateDesc(&description, half, 1), CUDA_SUCCESS,
                    "cuDevResourceGenerateDesc") &&
      report.result(d.cuGreenCtxCreate(&green, description, gpu.device(), 1), CUDA_SUCCESS,
                    "cuGreenCtxCreate") &&
      report.result(d.cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0),
                    CUDA_SUCCESS, "cuGreenCtxStreamCreate");
  return good ? stream : nullptr;
}

struct StreamKind {
  const char* name;
  CUstream (*make)(const Gpu&, Checks::Report&);
};

const StreamKind kStreams[] = {
    {"default", [](const Gpu&, Checks::Report&) -> CUstream { return nullptr; }},
    {"legacy", [](const Gpu&,
                  Checks::Report&) { return reinterpret_cast<CUstream>(CU_STREAM_LEGACY_VALUE); }},
    {"per_thread",
     [](const Gpu&, Checks::Report&) {
       return reinterpret_cast<CUstream>(CU_STREAM_PER_THREAD_VALUE);
     }},
    {"blocking", [](const Gpu& gpu, Checks::Report&) { return gpu.stream(0); }},
    {"priority", priority_stream},
    {"green", green_stream},
};

// A kernel takes up to twice as long with half of the multiprocessors, so that the share of the job
// is worth between half of it and all of it.
void into_green_stream(Checks::Report& report, Gpu& gpu, CUstream stream) {
  Counted before, after;
  if (stream == nullptr || !count(report, 0, &before)) return;
  uint64_t launched = 0;
  step("launching into a green context");
  const double share = hungry_share(report, 1.2, kBatch * kUs / 1e3, [&] {
    CUresult code = CUDA_SUCCESS;
    for (int i = 0; i < kBatch && code == CUDA_SUCCESS; ++i) {
      code = gpu.launch(stream, kUs);
      launched += code == CUDA_SUCCESS;
    }
    return code == CUDA_SUCCESS ? cu().cuStreamSynchronize(stream) : code;
  });
  gpu.has_right_sum(report);
  if (share < 0 || !count(report, 0, &after)) return;
  report.equal(after.launches - before.launches, launched, "launches that were counted");
  report.note("share", share);
  report.expect(share < limit_percent() + 3 && share > limit_percent() / 2.0 - 3,
                std::to_string(share) + " % of the GPU by launches into a green context");
}

void into_stream(Checks::Report& report, const StreamKind& kind, bool ptsz) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream stream = kind.make(gpu, report);
  if (!report.is_good()) return;
  const std::string_view name = kind.name;
  if (name == "green") return into_green_stream(report, gpu, stream);
  run(report, gpu, *find_route(ptsz ? "kernel_ptsz" : "kernel"), stream);
}

// Several threads of a program, each in its own stream, by the function for such streams: they have
// the share together.
void several_threads(Checks::Report& report) {
  constexpr int kThreads = 3;
  Gpu gpu;
  if (!gpu.open(report)) return;
  Checks::Report of_threads[kThreads];
  double shares[kThreads] = {};
  std::vector<std::thread> threads;
  step("threads that launch without a pause");
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      gpu.attach(of_threads[i]);
      const auto own = reinterpret_cast<CUstream>(CU_STREAM_PER_THREAD_VALUE);
      shares[i] = hungry_share(of_threads[i], 1.2, gpu, own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (int i = 0; i < kThreads; ++i) {
    report.expect(of_threads[i].is_good(), of_threads[i].text());
    sum += shares[i];
  }
  gpu.has_right_sum(report);
  expect_share(report, sum, 4);
}

}  // namespace

void add_route_checks(Checks* checks) {
  for (const Route& route : kRoutes) {
    checks->add(std::string("route_") + route.name, [&route](Checks::Report& report) {
      set_alarm(60, route.name);
      by_route(report, route);
    });
  }
  for (const StreamKind& kind : kStreams) {
    checks->add(std::string("stream_") + kind.name, [&kind](Checks::Report& report) {
      set_alarm(60, kind.name);
      into_stream(report, kind, false);
    });
  }
  // Where 0 is the thread's own stream.
  checks->add("stream_default_ptsz", [](Checks::Report& report) {
    set_alarm(60, "stream_default_ptsz");
    into_stream(report, kStreams[0], true);
  });
  add_timed(checks, "several_threads", 60, several_threads);
}

}  // namespace softmig::gpu_test
