// Contexts and the driver itself come and go while threads stand at the gate.
#include <dlfcn.h>

#include <thread>

#include "stuck/checks.h"

namespace softmig::gpu_test {
namespace {

// A thread that launches into the legacy stream of a context until that is refused.
class Refused {
 public:
  explicit Refused(Gpu& gpu) : thread_([this, &gpu] { run(gpu); }) {}
  ~Refused() { join(); }
  Refused(const Refused&) = delete;
  Refused& operator=(const Refused&) = delete;
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  CUresult code() const { return code_; }
  uint64_t launched() const { return launched_; }

 private:
  void run(Gpu& gpu) {
    Checks::Report ignored;
    gpu.attach(ignored);
    CUresult code = CUDA_SUCCESS;
    while ((code = gpu.launch(nullptr, 500)) == CUDA_SUCCESS) ++launched_;
    code_ = code;
  }

  std::atomic<CUresult> code_{CUDA_SUCCESS};
  std::atomic<uint64_t> launched_{0};
  std::thread thread_;
};

// The job has its share, no more and no less, and computes what it should.
void expect_all_is_well(Checks::Report& report, Gpu& gpu) {
  step("working after all that");
  if (!gpu.attach(report)) return;
  CUstream stream = gpu.stream();
  const double share = hungry_share(report, 1, gpu, stream);
  if (share >= 0) expect_share(report, share);
  gpu.has_right_sum(report);
  cu().cuStreamDestroy_v2(stream);
}

// Work is under way, also captured and timed work, when its context is destroyed.
void destroy_under_work(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  for (int i = 0; i < 8 && report.is_good(); ++i) {
    step("destroy_under_work: a context of its own");
    Gpu second;
    if (!second.open(report, 0, Gpu::Which::kOwnContext)) return;
    CUstream stream = second.stream();
    for (int k = 0; k < 6; ++k)
      report.result(second.launch(k % 2 == 0 ? stream : nullptr, 3000), CUDA_SUCCESS,
                    "cuLaunchKernel");
    step("destroy_under_work: destroying it");
    report.result(cu().cuCtxDestroy_v2(second.context()), CUDA_SUCCESS, "cuCtxDestroy");
  }
  expect_all_is_well(report, gpu);
}

void destroy_at_gate(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  for (int i = 0; i < 5 && report.is_good(); ++i) {
    step("destroy_at_gate: a context of its own");
    Gpu second;
    if (!second.open(report, 0, Gpu::Which::kOwnContext)) return;
    Refused thread(second);
    sleep_ms(300);
    step("destroy_at_gate: destroying it");
    report.result(cu().cuCtxDestroy_v2(second.context()), CUDA_SUCCESS, "cuCtxDestroy");
    step("destroy_at_gate: the thread at the gate");
    thread.join();
    report.expect(thread.launched() > 0, "the thread has launched nothing");
  }
  expect_all_is_well(report, gpu);
}

// A stream is destroyed while a thread stands at the gate with a launch into another one, and with
// its own work under way.
void destroy_streams(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream kept = gpu.stream();
  std::atomic<bool> end{false};
  Checks::Report of_thread;
  std::thread thread([&] {
    gpu.attach(of_thread);
    while (!end)
      if (!of_thread.result(gpu.launch(kept, 500), CUDA_SUCCESS, "the thread's launch")) break;
  });
  for (int i = 0; i < 50 && report.is_good(); ++i) {
    step("destroy_streams: launching");
    CUstream stream = gpu.stream();
    for (int k = 0; k < 3; ++k)
      report.result(gpu.launch(stream, 300), CUDA_SUCCESS, "cuLaunchKernel");
    step("destroy_streams: destroying");
    report.result(cu().cuStreamDestroy_v2(stream), CUDA_SUCCESS, "cuStreamDestroy");
  }
  end = true;
  thread.join();
  report.expect(of_thread.is_good(), of_thread.text());
  expect_all_is_well(report, gpu);
}

// Contexts are made, used and destroyed while another thread has the GPU as busy as it may.
void contexts_under_load(Checks::Report& report) {
  constexpr int kRounds = 50;
  Gpu gpu;
  if (!gpu.open(report)) return;
  std::atomic<bool> end{false};
  std::atomic<uint64_t> launched{0};
  Checks::Report of_thread;
  std::thread thread([&] {
    gpu.attach(of_thread);
    CUstream stream = gpu.stream();
    while (!end) {
      if (!of_thread.result(gpu.launch(stream, 500), CUDA_SUCCESS, "the thread's launch")) break;
      ++launched;
    }
  });
  for (int i = 0; i < kRounds && report.is_good(); ++i) {
    step("contexts_under_load: a context");
    CUcontext context = nullptr;
    report.result(cu().cuCtxCreate_v2(&context, 0, gpu.device()), CUDA_SUCCESS, "cuCtxCreate");
    CUstream stream = gpu.stream();
    report.expect(stream != nullptr, "no stream");
    report.result(cu().cuCtxDestroy_v2(context), CUDA_SUCCESS, "cuCtxDestroy");
  }
  const uint64_t before = launched;
  step("contexts_under_load: the thread");
  for (const double until = now_ms() + 3000; launched < before + 20 && now_ms() < until;)
    sleep_ms(5);
  report.expect(launched >= before + 20, "the thread does not go on");
  end = true;
  thread.join();
  report.expect(of_thread.is_good(), of_thread.text());
  expect_all_is_well(report, gpu);
}

// The primary context is reset while a thread stands at its gate.
void primary_reset(Checks::Report& report) {
  for (int i = 0; i < 5 && report.is_good(); ++i) {
    step("primary_reset: opening");
    Gpu gpu;
    if (!gpu.open(report)) return;
    Refused thread(gpu);
    sleep_ms(300);
    step("primary_reset: resetting");
    report.result(cu().cuDevicePrimaryCtxReset_v2(gpu.device()), CUDA_SUCCESS,
                  "cuDevicePrimaryCtxReset");
    step("primary_reset: the thread at the gate");
    thread.join();
    report.expect(thread.launched() > 0, "the thread has launched nothing");
  }
  Gpu gpu;
  if (gpu.open(report)) expect_all_is_well(report, gpu);
}

// The program gives the driver back while its thread stands at the gate, and asks for it again.
void dlclose_at_gate(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  std::atomic<bool> end{false};
  Checks::Report of_thread;
  std::thread thread([&] {
    gpu.attach(of_thread);
    CUstream stream = gpu.stream();
    while (!end)
      if (!of_thread.result(gpu.launch(stream, 500), CUDA_SUCCESS, "the thread's launch")) break;
  });
  sleep_ms(300);
  for (int i = 0; i < 10; ++i) {
    step("dlclose_at_gate: closing");
    void* again = dlopen("libcuda.so.1", RTLD_NOW);
    dlclose(again);
    dlclose(driver_handle());
    sleep_ms(10);
    // As many references as before, so that the next turn may give one back.
    report.expect(dlopen("libcuda.so.1", RTLD_NOW) == driver_handle(), "another driver");
  }
  sleep_ms(200);
  end = true;
  step("dlclose_at_gate: the thread");
  thread.join();
  report.expect(of_thread.is_good(), of_thread.text());
  expect_all_is_well(report, gpu);
}

}  // namespace

void add_context_checks(Checks* checks) {
  add_timed(checks, "destroy_under_work", 60, destroy_under_work);
  add_timed(checks, "destroy_at_gate", 60, destroy_at_gate);
  add_timed(checks, "destroy_streams", 60, destroy_streams);
  add_timed(checks, "contexts_under_load", 120, contexts_under_load);
  add_timed(checks, "primary_reset", 60, primary_reset);
  add_timed(checks, "dlclose_at_gate", 60, dlclose_at_gate);
}

}  // namespace softmig::gpu_test
