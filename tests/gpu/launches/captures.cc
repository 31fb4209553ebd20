// Stream captures: no launch, of whatever thread, breaks one because of us; what is captured is not
// charged, and the launches of its graph are.
#include <memory>
#include <thread>

#include "launches/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr double kUs = 300;
constexpr int kCaptured = 20, kLaunches = 5;

// A thread that does nothing but launch into a stream of its own, as fast as it gets. It never says
// that it may be asked about captures: natively its launches disturb none.
class Background {
 public:
  Background(Gpu& gpu, CUstream stream)
      : thread_([this, &gpu, stream] {
          gpu.attach(report_);
          while (!end_) {
            if (!report_.result(gpu.launch(stream, 500), CUDA_SUCCESS, "a launch beside")) break;
            ++launched_;
          }
        }) {}
  ~Background() {
    end_ = true;
    if (thread_.joinable()) thread_.join();
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  uint64_t end(Checks::Report& report) {
    end_ = true;
    thread_.join();
    report.expect(report_.is_good(), report_.text());
    return launched_;
  }

 private:
  std::atomic<bool> end_{false};
  std::atomic<uint64_t> launched_{0};
  Checks::Report report_;
  std::thread thread_;
};

// A launch that is being captured: it is not part of the sum yet.
CUresult capture_launch(Gpu& gpu, CUstream stream, double us = kUs) {
  uint64_t steps = gpu.steps(us);
  CUdeviceptr sink = gpu.sink();
  void* params[] = {&steps, &sink};
  return cu().cuLaunchKernel(gpu.work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0, stream, params,
                             nullptr);
}

void capture_some(Checks::Report& report, Gpu& gpu, CUstream stream, int launches,
                  double us = kUs) {
  for (int i = 0; i < launches; ++i) {
    report.result(capture_launch(gpu, stream, us), CUDA_SUCCESS, "a launch into a capture");
    sleep_ms(2);
  }
}

bool begin_capture(Checks::Report& report, CUstream stream, CUstreamCaptureMode mode) {
  return report.result(cu().cuStreamBeginCapture_v2(stream, mode), CUDA_SUCCESS,
                       "cuStreamBeginCapture");
}

CUgraph end_capture(Checks::Report& report, CUstream stream) {
  CUgraph graph = nullptr;
  report.result(cu().cuStreamEndCapture(stream, &graph), CUDA_SUCCESS, "cuStreamEndCapture");
  return graph;
}

CUgraphExec instantiate(Checks::Report& report, CUgraph graph) {
  CUgraphExec exec = nullptr;
  report.result(cu().cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS,
                "cuGraphInstantiate");
  return exec;
}

// Launches the graph some times. All that was launched, and nothing else, was counted and computed.
void expect_graph(Checks::Report& report, Gpu& gpu, CUgraph graph, int kernels,
                  const Counted& before, uint64_t launched_beside) {
  if (!report.is_good()) return;
  CUgraphExec exec = instantiate(report, graph);
  CUstream stream = gpu.stream();
  step("launching the graph");
  for (int i = 0; i < kLaunches; ++i)
    report.result(cu().cuGraphLaunch(exec, stream), CUDA_SUCCESS, "cuGraphLaunch");
  gpu.expect(gpu.steps(kUs), Gpu::kBlocks, static_cast<uint64_t>(kLaunches * kernels));
  gpu.has_right_sum(report);
  Counted after;
  if (!count(report, 0, &after)) return;
  report.equal(after.launches - before.launches, launched_beside, "kernels that were counted");
  report.equal(after.graphs - before.graphs, kLaunches, "graphs that were counted");
}

// One capture in a mode, while another thread and the capturing one launch into other streams.
// `early`: the other thread has begun before, and stands at the gate.
void in_mode(Checks::Report& report, CUstreamCaptureMode mode, bool early) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream captured = gpu.stream(), beside = gpu.stream(), own = gpu.stream();
  Counted before;
  if (!count(report, 0, &before)) return;
  std::unique_ptr<Background> background;
  if (early) background = std::make_unique<Background>(gpu, beside);
  if (early) sleep_ms(300);
  step("capturing");
  if (!begin_capture(report, captured, mode)) return;
  if (!early) background = std::make_unique<Background>(gpu, beside);
  for (int i = 0; i < kCaptured; ++i) {
    capture_some(report, gpu, captured, 1);
    report.result(gpu.launch(own, kUs), CUDA_SUCCESS, "a launch of the thread that captures");
    sleep_ms(5);
  }
  CUgraph graph = end_capture(report, captured);
  sleep_ms(50);
  step("ending the launches beside");
  const uint64_t launched = background->end(report) + kCaptured;
  expect_graph(report, gpu, graph, kCaptured, before, launched);
}

// A capture that branches over three streams and comes together again.
void fork_and_join(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  const Calls& d = cu();
  CUstream streams[3] = {gpu.stream(), gpu.stream(), gpu.stream()}, beside = gpu.stream();
  CUevent events[3] = {};
  for (CUevent& event : events)
    report.result(d.cuEventCreate(&event, CU_EVENT_DEFAULT), CUDA_SUCCESS, "cuEventCreate");
  Counted before;
  if (!count(report, 0, &before)) return;
  Background background(gpu, beside);
  sleep_ms(200);
  step("capturing");
  if (!begin_capture(report, streams[0], CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  capture_some(report, gpu, streams[0], 2);
  report.result(d.cuEventRecord(events[0], streams[0]), CUDA_SUCCESS, "cuEventRecord");
  for (int i = 1; i < 3; ++i) {
    report.result(d.cuStreamWaitEvent(streams[i], events[0], 0), CUDA_SUCCESS, "a branch");
    capture_some(report, gpu, streams[i], 3);
    report.result(d.cuEventRecord(events[i], streams[i]), CUDA_SUCCESS, "cuEventRecord");
    report.result(d.cuStreamWaitEvent(streams[0], events[i], 0), CUDA_SUCCESS, "the join");
  }
  capture_some(report, gpu, streams[0], 2);
  CUgraph graph = end_capture(report, streams[0]);
  const uint64_t launched = background.end(report);
  expect_graph(report, gpu, graph, 10, before, launched);
}

void into_graph(Checks::Report& report) {
  const Calls& d = cu();
  if (d.cuStreamBeginCaptureToGraph == nullptr)
    return report.skip("this driver has no cuStreamBeginCaptureToGraph");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream captured = gpu.stream(), beside = gpu.stream();
  CUgraph graph = nullptr;
  Counted before;
  if (!count(report, 0, &before)) return;
  Background background(gpu, beside);
  sleep_ms(200);
  report.result(d.cuGraphCreate(&graph, 0), CUDA_SUCCESS, "cuGraphCreate");
  for (int i = 0; i < 2; ++i) {
    step("capturing into a graph");
    report.result(d.cuStreamBeginCaptureToGraph(captured, graph, nullptr, nullptr, 0,
                                                CU_STREAM_CAPTURE_MODE_GLOBAL),
                  CUDA_SUCCESS, "cuStreamBeginCaptureToGraph");
    capture_some(report, gpu, captured, 5);
    report.expect(end_capture(report, captured) == graph, "another graph");
  }
  const uint64_t launched = background.end(report);
  expect_graph(report, gpu, graph, 10, before, launched);
}

// Begun by one thread, ended by another one, in the stream of a thread.
void across_threads(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream captured = gpu.stream(), beside = gpu.stream();
  Counted before;
  if (!count(report, 0, &before)) return;
  Background background(gpu, beside);
  sleep_ms(200);
  Checks::Report of_thread;
  step("capturing in a thread");
  std::thread([&] {
    gpu.attach(of_thread);
    begin_capture(of_thread, captured, CU_STREAM_CAPTURE_MODE_RELAXED);
    capture_some(of_thread, gpu, captured, 5);
  }).join();
  report.expect(of_thread.is_good(), of_thread.text());
  capture_some(report, gpu, captured, 5);
  CUgraph graph = end_capture(report, captured);
  const uint64_t launched = background.end(report);
  expect_graph(report, gpu, graph, 10, before, launched);
}

// The legacy stream has nothing to do with a capture in a stream that does not wait for it.
void legacy_beside(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream captured = gpu.stream();
  Counted before;
  if (!count(report, 0, &before)) return;
  Background background(gpu, nullptr);
  sleep_ms(200);
  step("capturing");
  if (!begin_capture(report, captured, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  capture_some(report, gpu, captured, 10);
  CUgraph graph = end_capture(report, captured);
  const uint64_t launched = background.end(report);
  expect_graph(report, gpu, graph, 10, before, launched);
}

// After a program has broken its own capture, in the ways that break one natively, with the native
// results, launches are counted and held back as before.
void broken_by_program(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  const Calls& d = cu();
  CUgraph graph = nullptr;
  CUstream stream = gpu.stream(), blocking = gpu.stream(0);
  step("a capture that waits for itself");
  if (!begin_capture(report, stream, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  capture_some(report, gpu, stream, 2);
  report.result(d.cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                "waiting for a capture");
  report.result(capture_launch(gpu, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                "a launch into a broken capture");
  report.result(d.cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                "the end of a broken capture");
  step("a capture that the legacy stream would have to wait for");
  if (!begin_capture(report, blocking, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  report.result(capture_launch(gpu, nullptr), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                "a launch into the legacy stream");
  report.result(d.cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                "the end of a capture that the legacy stream broke");
  step("a graph launched into a capture");
  if (!begin_capture(report, stream, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  capture_some(report, gpu, stream, 2);
  CUgraphExec exec = instantiate(report, end_capture(report, stream));
  if (!begin_capture(report, stream, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
  report.result(d.cuGraphLaunch(exec, stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                "cuGraphLaunch into a capture");
  report.result(d.cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                "the end of a capture that a graph broke");
  step("a capture whose stream is destroyed");
  CUstream third = gpu.stream();
  if (!begin_capture(report, third, CU_STREAM_CAPTURE_MODE_RELAXED)) return;
  report.result(d.cuStreamDestroy_v2(third), CUDA_SUCCESS, "cuStreamDestroy");
  step("going on");
  const double share = hungry_share(report, 1, gpu, stream);
  gpu.has_right_sum(report);
  if (share >= 0) expect_share(report, share);
}

// The price of a graph is that of what it does now.
void exec_update(Checks::Report& report) {
  constexpr int kKernels = 4;
  const Calls& d = cu();
  if (d.cuGraphExecUpdate_v2 == nullptr)
    return report.skip("this driver has no cuGraphExecUpdate_v2");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream stream = gpu.stream();
  CUgraphExec exec = nullptr;
  for (const double us : {200.0, 1500.0, 300.0}) {
    step("capturing");
    if (!begin_capture(report, stream, CU_STREAM_CAPTURE_MODE_GLOBAL)) return;
    capture_some(report, gpu, stream, kKernels, us);
    CUgraph graph = end_capture(report, stream);
    CUgraphExecUpdateResultInfo info{};
    if (exec == nullptr)
      exec = instantiate(report, graph);
    else
      report.result(d.cuGraphExecUpdate_v2(exec, graph, &info), CUDA_SUCCESS, "cuGraphExecUpdate");
    step("launching an updated graph");
    uint64_t launched = 0;
    const double share = hungry_share(report, 1, us * kKernels / 1e3, [&] {
      CUresult code = d.cuGraphLaunch(exec, stream);
      launched += code == CUDA_SUCCESS;
      return code == CUDA_SUCCESS ? d.cuStreamSynchronize(stream) : code;
    });
    gpu.expect(gpu.steps(us), Gpu::kBlocks, launched * kKernels);
    gpu.has_right_sum(report);
    if (share < 0 || !expect_share(report, share)) return;
  }
}

}  // namespace

void add_capture_checks(Checks* checks) {
  static constexpr struct {
    const char* name;
    CUstreamCaptureMode mode;
    bool early;
  } kModes[] = {
      {"capture_global", CU_STREAM_CAPTURE_MODE_GLOBAL, true},
      {"capture_global_first", CU_STREAM_CAPTURE_MODE_GLOBAL, false},
      {"capture_thread_local", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, true},
      {"capture_thread_local_first", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, false},
      {"capture_relaxed", CU_STREAM_CAPTURE_MODE_RELAXED, true},
      {"capture_relaxed_first", CU_STREAM_CAPTURE_MODE_RELAXED, false},
  };
  for (const auto& row : kModes) {
    checks->add(row.name, [&row](Checks::Report& report) {
      set_alarm(30, row.name);
      in_mode(report, row.mode, row.early);
    });
  }
  add_timed(checks, "capture_fork_join", 30, fork_and_join);
  add_timed(checks, "capture_into_graph", 30, into_graph);
  add_timed(checks, "capture_across_threads", 30, across_threads);
  add_timed(checks, "capture_legacy_beside", 30, legacy_beside);
  add_timed(checks, "capture_broken", 30, broken_by_program);
  add_timed(checks, "exec_update", 30, exec_update);
}

}  // namespace softmig::gpu_test
