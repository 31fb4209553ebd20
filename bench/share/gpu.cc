#include "share/gpu.h"

#include <dlfcn.h>
#include <link.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "share/kernel.h"

namespace softmig::bench {

using gpu_test::Driver;

int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

void sleep_until(int64_t ns) {
  const timespec t{static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

void give_up(const std::string& text) {
  gpu_test::Line("error").add("ok", false).add("text", text).print();
  std::exit(1);
}

void must(CUresult code, const char* what) {
  if (code != CUDA_SUCCESS) give_up(what + std::string(" gave ") + std::to_string(code));
}

bool has_library() {
  const auto look = [](dl_phdr_info* info, size_t, void*) {
    return std::strstr(info->dlpi_name, "libsoftmig.so") != nullptr ? 1 : 0;
  };
  return dl_iterate_phdr(look, nullptr) != 0;
}

CUfunction load_work(const Driver& d) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUresult code = CUDA_SUCCESS;
  // The older one first: it covers more cards.
  for (const char* target : {"sm_52", "sm_70"}) {
    code = d.cuModuleLoadData(&module, work_ptx(target).c_str());
    if (code == CUDA_SUCCESS) break;
  }
  must(code, "cuModuleLoadData");
  must(d.cuModuleGetFunction(&function, module, kWorkName), "cuModuleGetFunction");
  return function;
}

void Gpu::open(int device) {
  std::string step;
  const CUresult code = session_.open(gpu_test::Lookup{}, device, &step);
  must(code, step.c_str());
  const Driver& d = driver();
  launch_per_thread_ = reinterpret_cast<decltype(launch_per_thread_)>(
      dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuLaunchKernel_ptsz"));
  int count = 0;
  must(d.cuDeviceGetAttribute(&count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, session_.device),
       "cuDeviceGetAttribute");
  multiprocessors_ = static_cast<unsigned int>(count);
  work_ = load_work(d);
  must(d.cuMemAlloc_v2(&sink_, sizeof expected_), "cuMemAlloc");
  must(d.cuMemsetD8_v2(sink_, 0, sizeof expected_), "cuMemsetD8");
}

std::string Gpu::name() const {
  char name[128] = "";
  int version = 0;
  driver().cuDeviceGetName(name, sizeof name, session_.device);
  driver().cuDriverGetVersion(&version);
  return std::string(name) + ", CUDA " + std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

CUstream Gpu::new_stream() {
  CUstream stream = nullptr;
  must(driver().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  return stream;
}

CUevent Gpu::new_event() {
  CUevent event = nullptr;
  must(driver().cuEventCreate(&event, 0), "cuEventCreate");
  return event;
}

void Gpu::launch(CUstream stream, uint64_t iterations, Shape shape, How how) {
  void* params[] = {&iterations, &sink_};
  const Driver& d = driver();
  CUresult code = CUDA_SUCCESS;
  switch (how) {
    case How::kPlain:
      code = d.cuLaunchKernel(work_, shape.blocks, 1, 1, kWorkThreads, 1, 1, shape.shared, stream,
                              params, nullptr);
      break;
    case How::kPerThread:
      code = launch_per_thread_(work_, shape.blocks, 1, 1, kWorkThreads, 1, 1, shape.shared,
                                nullptr, params, nullptr);
      break;
    case How::kCooperative:
      code = d.cuLaunchCooperativeKernel(work_, shape.blocks, 1, 1, kWorkThreads, 1, 1,
                                         shape.shared, stream, params);
      break;
  }
  must(code, "launch");
}

CUgraphExec Gpu::new_graph(CUstream stream, uint64_t iterations, Shape shape, int nodes) {
  const Driver& d = driver();
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  must(d.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
       "cuStreamBeginCapture");
  for (int i = 0; i < nodes; ++i) launch(stream, iterations, shape, How::kPlain);
  must(d.cuStreamEndCapture(stream, &graph), "cuStreamEndCapture");
  must(d.cuGraphInstantiateWithFlags(&exec, graph, 0), "cuGraphInstantiateWithFlags");
  must(d.cuGraphDestroy(graph), "cuGraphDestroy");
  return exec;
}

void Gpu::launch_graph(CUgraphExec graph, CUstream stream) {
  must(driver().cuGraphLaunch(graph, stream), "cuGraphLaunch");
}

void Gpu::wait(CUstream stream) {
  must(driver().cuStreamSynchronize(stream), "cuStreamSynchronize");
}

void Gpu::expect(uint64_t iterations, Shape shape, uint64_t count) {
  const auto [at, is_new] = results_.try_emplace({iterations, shape.blocks}, 0);
  if (is_new) at->second = work_result(iterations, shape.blocks);
  expected_ += at->second * count;
}

Gpu::Result Gpu::verdict() {
  const Driver& d = driver();
  uint64_t sum = 0;
  must(d.cuCtxSynchronize(), "cuCtxSynchronize");
  must(d.cuMemcpyDtoH_v2(&sum, sink_, sizeof sum), "cuMemcpyDtoH");
  must(d.cuMemsetD8_v2(sink_, 0, sizeof sum), "cuMemsetD8");
  const bool right = sum == expected_;
  const bool nothing = sum == 0 && expected_ != 0;
  expected_ = 0;
  return right ? Result::kRight : nothing ? Result::kNotComputed : Result::kWrong;
}

}  // namespace softmig::bench
