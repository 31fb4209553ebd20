// Two GPUs of one job: each has its own limit and its own account.
#include <memory>
#include <thread>

#include "launches/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr double kSeconds = 1.2;

// Opens both GPUs; false, with a reason to skip, if there is one alone.
bool open_both(Checks::Report& report, Gpu (&gpus)[2]) {
  int devices = 0;
  if (cu().cuInit == nullptr || cu().cuInit(0) != CUDA_SUCCESS ||
      cu().cuDeviceGetCount(&devices) != CUDA_SUCCESS || devices < 2) {
    report.skip("needs two GPUs");
    return false;
  }
  return gpus[0].open(report, 0) && gpus[1].open(report, 1);
}

// Both GPUs are used at once, each by a thread that never pauses.
void use_both(Checks::Report& report, Gpu (&gpus)[2], double (&shares)[2]) {
  Checks::Report of_threads[2];
  std::vector<std::thread> threads;
  step("threads on both GPUs");
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      gpus[i].attach(of_threads[i]);
      CUstream stream = gpus[i].stream();
      shares[i] = hungry_share(of_threads[i], kSeconds, gpus[i], stream);
      gpus[i].has_right_sum(of_threads[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Checks::Report& one : of_threads) report.expect(one.is_good(), one.text());
}

void two_devices(Checks::Report& report) {
  Gpu gpus[2];
  if (!open_both(report, gpus)) return;
  Counted before[2], after[2];
  double shares[2] = {};
  for (int i = 0; i < 2; ++i) count(report, i, &before[i]);
  use_both(report, gpus, shares);
  for (int i = 0; i < 2; ++i) {
    count(report, i, &after[i]);
    report.expect(after[i].launches > before[i].launches, "a GPU on which nothing was counted");
    expect_share(report, shares[i]);
  }
}

// The slice of this check has a limit on its second GPU alone, of 25 %.
void only_second_limited(Checks::Report& report) {
  Gpu gpus[2];
  if (!open_both(report, gpus)) return;
  double shares[2] = {};
  use_both(report, gpus, shares);
  report.note("share_of_first", shares[0]);
  report.expect(shares[0] > 80, "the GPU without a limit is held back");
  expect_share_of(report, shares[1], 25);
}

// Kernels of one GPU that write to the memory of the other one are charged to where they run.
void peer_access(Checks::Report& report) {
  constexpr int kLaunches = 100;
  Gpu gpus[2];
  if (!open_both(report, gpus)) return;
  int can = 0;
  cu().cuDeviceCanAccessPeer(&can, gpus[0].device(), gpus[1].device());
  if (can == 0) return report.skip("the GPUs cannot reach each other's memory");
  if (!gpus[0].attach(report)) return;
  report.result(cu().cuCtxEnablePeerAccess(gpus[1].context(), 0), CUDA_SUCCESS,
                "cuCtxEnablePeerAccess");
  Counted before[2], after[2];
  for (int i = 0; i < 2; ++i) count(report, i, &before[i]);
  uint64_t steps = gpus[0].steps(200);
  CUdeviceptr sink = gpus[1].sink();
  void* params[] = {&steps, &sink};
  CUstream stream = gpus[0].stream();
  step("launching across");
  for (int i = 0; i < kLaunches; ++i)
    report.result(cu().cuLaunchKernel(gpus[0].work(), Gpu::kBlocks, 1, 1, Gpu::kThreads, 1, 1, 0,
                                      stream, params, nullptr),
                  CUDA_SUCCESS, "cuLaunchKernel");
  report.result(cu().cuStreamSynchronize(stream), CUDA_SUCCESS, "cuStreamSynchronize");
  gpus[1].expect(steps, Gpu::kBlocks, kLaunches);
  for (int i = 0; i < 2; ++i) count(report, i, &after[i]);
  report.equal(after[0].launches - before[0].launches, kLaunches, "launches on the first GPU");
  report.equal(after[1].launches - before[1].launches, 0, "launches on the second GPU");
  gpus[0].has_right_sum(report);
  if (gpus[1].attach(report)) gpus[1].has_right_sum(report);
}

// One call that launches on both.
void launch_on_both(Checks::Report& report) {
  constexpr int kLaunches = 20;
  constexpr double kUs = 500;
  if (cu().cuLaunchCooperativeKernelMultiDevice == nullptr)
    return report.skip("this driver has no launches on several devices");
  Gpu gpus[2];
  if (!open_both(report, gpus)) return;
  uint64_t steps[2];
  CUdeviceptr sinks[2];
  void* params[2][2];
  CUDA_LAUNCH_PARAMS list[2]{};
  for (int i = 0; i < 2; ++i) {
    if (!gpus[i].attach(report)) return;
    steps[i] = gpus[i].steps(kUs);
    sinks[i] = gpus[i].sink();
    params[i][0] = &steps[i];
    params[i][1] = &sinks[i];
    list[i].function = gpus[i].work();
    list[i].gridDimX = Gpu::kBlocks;
    list[i].blockDimX = Gpu::kThreads;
    list[i].gridDimY = list[i].gridDimZ = list[i].blockDimY = list[i].blockDimZ = 1;
    list[i].hStream = gpus[i].stream();
    list[i].kernelParams = params[i];
  }
  Counted before[2], after[2];
  for (int i = 0; i < 2; ++i) count(report, i, &before[i]);
  step("launching on both GPUs at once");
  for (int i = 0; i < kLaunches; ++i) {
    const CUresult code = cu().cuLaunchCooperativeKernelMultiDevice(list, 2, 0);
    if (code == CUDA_ERROR_NOT_SUPPORTED) return report.skip("given up by this driver");
    report.result(code, CUDA_SUCCESS, "cuLaunchCooperativeKernelMultiDevice");
  }
  for (int i = 0; i < 2; ++i) {
    if (!gpus[i].attach(report)) return;
    gpus[i].expect(steps[i], Gpu::kBlocks, kLaunches);
    gpus[i].has_right_sum(report);
    count(report, i, &after[i]);
    report.equal(after[i].launches - before[i].launches, kLaunches, "launches that were counted");
  }
}

}  // namespace

void add_device_checks(Checks* checks) {
  add_timed(checks, "two_devices", 30, two_devices);
  add_timed(checks, "only_second_limited", 30, only_second_limited);
  add_timed(checks, "peer_access", 30, peer_access);
  add_timed(checks, "launch_on_both", 30, launch_on_both);
}

}  // namespace softmig::gpu_test
