#include "stuck/kit.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi/region.h"
#include "share/kernel.h"

namespace softmig::gpu_test {
namespace {

constexpr double kWarmUpMs = 500;
// For the kernels of one thread that wait for each other.
constexpr const char* kFlagKernels = R"(
.visible .entry await_flag(.param .u64 flag, .param .u32 value)
{
  .reg .pred %p<2>;
  .reg .b32 %r<3>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [flag];
  ld.param.u32 %r1, [value];
  cvta.to.global.u64 %rd2, %rd1;
AGAIN:
  ld.volatile.global.u32 %r2, [%rd2];
  setp.lo.u32 %p1, %r2, %r1;
  @%p1 bra AGAIN;
  membar.sys;
  ret;
}
.visible .entry raise_flag(.param .u64 flag, .param .u32 value)
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [flag];
  ld.param.u32 %r1, [value];
  cvta.to.global.u64 %rd2, %rd1;
  membar.sys;
  st.volatile.global.u32 [%rd2], %r1;
  ret;
}
)";

std::atomic<const char*> g_step{"the start"};
const char* g_check = "";

void put(const char* text) {
  if (write(STDOUT_FILENO, text, std::strlen(text)) < 0) _exit(1);
}

void ring(int) {
  put("{\"what\":\"check\",\"name\":\"");
  put(g_check);
  put("\",\"ok\":false,\"text\":\"hangs: ");
  put(g_step.load());
  put("\"}\n");
  _exit(1);
}

const abi::Region* region() {
  static const abi::Region* const mapped = []() -> const abi::Region* {
    const char* path = std::getenv("SOFTMIG_REGION");
    const int fd = path != nullptr ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return nullptr;
    void* at = mmap(nullptr, abi::kRegionSize, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? nullptr : static_cast<const abi::Region*>(at);
  }();
  return mapped;
}

}  // namespace

void* driver_handle() {
  static void* const handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  return handle;
}

const Calls& cu() {
  static const Calls calls = [] {
    Calls found;
    if (driver_handle() == nullptr) return found;
#define SM_KIT_FIND(name) \
  found.name = reinterpret_cast<decltype(&::name)>(dlsym(driver_handle(), #name));
    SM_KIT_FUNCTIONS(SM_KIT_FIND)
#undef SM_KIT_FIND
    return found;
  }();
  return calls;
}

void set_alarm(unsigned int seconds, const char* check) {
  g_check = check;
  struct sigaction action {};
  action.sa_handler = ring;
  sigaction(SIGALRM, &action, nullptr);
  alarm(seconds);
}

void step(const char* what) { g_step = what; }

int limit_percent() {
  const char* text = std::getenv("CUDA_DEVICE_SM_LIMIT");
  return text != nullptr ? std::atoi(text) : 0;
}

bool on_simulated_gpu() { return std::getenv("SOFTMIG_SIM") != nullptr; }

bool count(Checks::Report& report, int device, Counted* counted) {
  if (!report.expect(region() != nullptr, "there is no region: nothing is counted")) return false;
  const auto add = [counted](const auto& from) {
    counted->launches += from.launches.load();
    counted->graphs += from.graph_launches.load();
    counted->gpu_ns += from.gpu_ns.load();
    counted->waited_ns += from.waited_ns.load();
  };
  *counted = {};
  add(region()->share[device]);
  const uint32_t slots = region()->header.high_water.load();
  for (uint32_t i = 0; i < slots; i++) add(region()->slot[i].device[device]);
  return true;
}

bool Gpu::open(Checks::Report& report, int ordinal, Which which) {
  const Calls& d = cu();
  if (!report.expect(d.cuInit != nullptr, "there is no driver")) return false;
  const bool good =
      report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit") &&
      report.result(d.cuDeviceGet(&device_, ordinal), CUDA_SUCCESS, "cuDeviceGet") &&
      (which == Which::kPrimary
           ? report.result(d.cuDevicePrimaryCtxRetain(&context_, device_), CUDA_SUCCESS,
                           "cuDevicePrimaryCtxRetain")
           : report.result(d.cuCtxCreate_v2(&context_, 0, device_), CUDA_SUCCESS, "cuCtxCreate")) &&
      attach(report) && load(report);
  return good && calibrate(report, kBlocks, &per_us_) && calibrate(report, 1, &per_us_single_);
}

bool Gpu::attach(Checks::Report& report) const {
  return report.result(cu().cuCtxSetCurrent(context_), CUDA_SUCCESS, "cuCtxSetCurrent");
}

bool Gpu::load(Checks::Report& report) {
  const Calls& d = cu();
  CUresult code = CUDA_SUCCESS;
  // The older one first: it covers more cards.
  for (const char* target : {"sm_52", "sm_70"}) {
    code = d.cuModuleLoadData(&module_, (bench::work_ptx(target) + kFlagKernels).c_str());
    if (code == CUDA_SUCCESS) break;
  }
  void* flags = nullptr;
  constexpr size_t kFlagBytes = kFlags * 64;
  if (!report.result(code, CUDA_SUCCESS, "cuModuleLoadData") ||
      !report.result(d.cuModuleGetFunction(&work_, module_, bench::kWorkName), CUDA_SUCCESS,
                     "cuModuleGetFunction") ||
      !report.result(d.cuModuleGetFunction(&await_, module_, "await_flag"), CUDA_SUCCESS,
                     "cuModuleGetFunction") ||
      !report.result(d.cuModuleGetFunction(&raise_, module_, "raise_flag"), CUDA_SUCCESS,
                     "cuModuleGetFunction") ||
      !report.result(d.cuMemAlloc_v2(&sink_, 8), CUDA_SUCCESS, "cuMemAlloc") ||
      !report.result(d.cuMemsetD8_v2(sink_, 0, 8), CUDA_SUCCESS, "cuMemsetD8") ||
      !report.result(d.cuMemHostAlloc(&flags, kFlagBytes,
                                      CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE),
                     CUDA_SUCCESS, "cuMemHostAlloc") ||
      !report.result(d.cuMemHostGetDevicePointer_v2(&flags_address_, flags, 0), CUDA_SUCCESS,
                     "cuMemHostGetDevicePointer")) {
    return false;
  }
  std::memset(flags, 0, kFlagBytes);
  flags_ = static_cast<volatile uint32_t*>(flags);
  // A driver that loads kernels late would wait for the one that spins until it was loaded.
  return report.result(raise(nullptr, kFlags - 1, 1), CUDA_SUCCESS, "the first raise_flag") &&
         report.result(await(nullptr, kFlags - 1, 1), CUDA_SUCCESS, "the first await_flag") &&
         report.result(d.cuCtxSynchronize(), CUDA_SUCCESS, "cuCtxSynchronize");
}

// The shortest of a few: one may have waited at the gate between its events.
bool Gpu::calibrate(Checks::Report& report, unsigned int blocks, double* steps_per_us) {
  const Calls& d = cu();
  constexpr uint64_t kSteps = 200'000;
  CUevent begin = nullptr, end = nullptr;
  CUstream in = stream();
  d.cuEventCreate(&begin, CU_EVENT_DEFAULT);
  d.cuEventCreate(&end, CU_EVENT_DEFAULT);
  float shortest = 0;
  for (int i = 0; i < 4; ++i) {
    uint64_t steps = kSteps;
    void* params[] = {&steps, &sink_};
    float ms = 0;
    d.cuEventRecord(begin, in);
    const CUresult code =
        d.cuLaunchKernel(work_, blocks, 1, 1, kThreads, 1, 1, 0, in, params, nullptr);
    d.cuEventRecord(end, in);
    if (!report.result(code, CUDA_SUCCESS, "cuLaunchKernel") ||
        !report.result(d.cuEventSynchronize(end), CUDA_SUCCESS, "cuEventSynchronize") ||
        !report.result(d.cuEventElapsedTime(&ms, begin, end), CUDA_SUCCESS, "cuEventElapsedTime"))
      return false;
    expect(kSteps, blocks);
    shortest = i == 0 ? ms : std::min(shortest, ms);
  }
  d.cuEventDestroy_v2(begin);
  d.cuEventDestroy_v2(end);
  d.cuStreamDestroy_v2(in);
  *steps_per_us = kSteps / (static_cast<double>(shortest) * 1e3);
  return report.expect(shortest > 0, "a kernel takes no time");
}

CUstream Gpu::stream(unsigned int flags) const {
  CUstream made = nullptr;
  cu().cuStreamCreate(&made, flags);
  return made;
}

uint64_t Gpu::steps(double us, unsigned int blocks) {
  return static_cast<uint64_t>(us * (blocks == 1 ? per_us_single_ : per_us_));
}

void Gpu::expect(uint64_t steps, unsigned int blocks, uint64_t launches) {
  expected_ += bench::work_result(steps, blocks) * launches;
}

CUresult Gpu::launch(CUstream stream, double us, unsigned int blocks) {
  uint64_t count = steps(us, blocks);
  void* params[] = {&count, &sink_};
  const CUresult code =
      cu().cuLaunchKernel(work_, blocks, 1, 1, kThreads, 1, 1, 0, stream, params, nullptr);
  if (code == CUDA_SUCCESS) expect(count, blocks);
  return code;
}

CUresult Gpu::launch_flag(CUfunction function, CUstream stream, int flag, uint32_t value) const {
  CUdeviceptr address = flag_address(flag);
  void* params[] = {&address, &value};
  return cu().cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
}

CUresult Gpu::await(CUstream stream, int flag, uint32_t value) const {
  return launch_flag(await_, stream, flag, value);
}

CUresult Gpu::raise(CUstream stream, int flag, uint32_t value) const {
  return launch_flag(raise_, stream, flag, value);
}

bool Gpu::has_right_sum(Checks::Report& report) {
  uint64_t sum = 0;
  return report.result(cu().cuCtxSynchronize(), CUDA_SUCCESS, "cuCtxSynchronize") &&
         report.result(cu().cuMemcpyDtoH_v2(&sum, sink_, sizeof sum), CUDA_SUCCESS,
                       "cuMemcpyDtoH") &&
         report.equal(sum, expected_, "the sum of all launches");
}

double hungry_share(Checks::Report& report, double seconds, double batch_ms,
                    const std::function<CUresult()>& batch) {
  const double from = now_ms() + kWarmUpMs, to = from + seconds * 1e3;
  double done = 0, first = 0, last = 0;
  while (last < to) {
    if (!report.result(batch(), CUDA_SUCCESS, "a batch of launches")) return -1;
    last = now_ms();
    if (first != 0) done += batch_ms;
    if (first == 0 && last >= from) first = last;
  }
  return done / (last - first) * 100;
}

double hungry_share(Checks::Report& report, double seconds, Gpu& gpu, CUstream stream) {
  return hungry_share(report, seconds, 2, [&] {
    CUresult code = CUDA_SUCCESS;
    for (int i = 0; i < 4 && code == CUDA_SUCCESS; ++i) code = gpu.launch(stream, 500);
    return code == CUDA_SUCCESS ? cu().cuStreamSynchronize(stream) : code;
  });
}

bool expect_share_of(Checks::Report& report, double share, double wanted, double points) {
  char text[96];
  std::snprintf(text, sizeof text, "%.1f %% of the GPU, not %.0f", share, wanted);
  report.note("share", share);
  const double least = std::getenv("SOFTMIG_SLOTS") != nullptr ? wanted / 2 : wanted - points;
  return report.expect(share >= least && share <= wanted + points, text);
}

bool expect_share(Checks::Report& report, double share, double points) {
  return expect_share_of(report, share, limit_percent(), points);
}

bool close_gate(Checks::Report& report, Gpu& gpu, CUstream stream, double ms) {
  // What the job has saved, and what is to be paid for. Of another grid than the other launches:
  // their price shall not rise.
  const double us = (80 + ms) * limit_percent() / 100 * 1e3;
  return report.result(gpu.launch(stream, us, Gpu::kBlocks - 1), CUDA_SUCCESS, "cuLaunchKernel") &&
         report.result(cu().cuStreamSynchronize(stream), CUDA_SUCCESS, "cuStreamSynchronize");
}

}  // namespace softmig::gpu_test
