// A program of the CUDA runtime API, built against the headers and the library of each version:
// every common way to take memory, streams, events, copies, kernels by registration and by a module
// of the driver API, and a captured graph. Its kernels are registered as nvcc's code does it, so
// that any C++ compiler and any version's headers will do.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <numeric>

#include "report.h"

extern "C" {
// What every version of the runtime exports for the code that nvcc makes.
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** handle);
void __cudaUnregisterFatBinary(void** handle);
void __cudaRegisterFunction(void** handle, const char* host, char* device, const char* name,
                            int thread_limit, uint3* thread, uint3* block, dim3* block_dim,
                            dim3* grid_dim, int* warp_size);
extern const unsigned char mix_fatbin[];
extern const char mix_ptx[];
}

// MIX_FATBIN and MIX_PTX are the paths of the two files.
__asm__(
    ".section .nv_fatbin, \"a\"\n.align 8\n.global mix_fatbin\nmix_fatbin:\n.incbin \"" MIX_FATBIN
    "\"\n.previous\n"
    ".section .rodata\n.align 8\n.global mix_ptx\nmix_ptx:\n.incbin \"" MIX_PTX
    "\"\n.byte 0\n.previous\n");

namespace softmig::compat {
namespace {

constexpr unsigned int kCount = 1 << 20;
constexpr size_t kBytes = kCount * sizeof(uint32_t);

struct Wrapper {
  int magic;
  int version;
  const void* image;
  void* unused;
};

// Stands for the kernel on the host: its address is the kernel's name for the runtime.
void mix_stub() { __asm__ volatile(""); }

[[noreturn]] void fail(const char* what, cudaError_t code) {
  std::printf("{\"error\":\"%s: %s\"}\n", what, cudaGetErrorName(code));
  std::exit(1);
}

void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) fail(what, code);
}

class Registration {
 public:
  Registration() : handle_(__cudaRegisterFatBinary(&wrapper_)) {
    static char name[] = "mix";
    __cudaRegisterFunction(handle_, reinterpret_cast<const char*>(&mix_stub), name, name, -1,
                           nullptr, nullptr, nullptr, nullptr, nullptr);
    __cudaRegisterFatBinaryEnd(handle_);
  }
  ~Registration() { __cudaUnregisterFatBinary(handle_); }

 private:
  Wrapper wrapper_{0x466243B1, 1, mix_fatbin, nullptr};
  void** handle_;
};

void launch(void* data, unsigned int seed, cudaStream_t stream) {
  unsigned int count = kCount;
  void* arguments[] = {&data, &count, &seed};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(&mix_stub), dim3{kCount / 256, 1, 1},
                         dim3{256, 1, 1}, arguments, 0, stream),
        "cudaLaunchKernel");
}

std::vector<uint32_t> first_values() {
  std::vector<uint32_t> values(kCount);
  std::iota(values.begin(), values.end(), 1U);
  return values;
}

std::vector<uint32_t> read(const void* data, cudaStream_t stream) {
  std::vector<uint32_t> values(kCount);
  check(cudaMemcpyAsync(values.data(), data, kBytes, cudaMemcpyDefault, stream), "read");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return values;
}

// Ends the program unless the values are those of an input after the kernel with each seed from
// `seed` to before `end`, as the host computes them.
void expect_mixed(const std::vector<uint32_t>& values, unsigned int seed, unsigned int end) {
  for (unsigned int i = 0; i < kCount; ++i) {
    uint32_t expected = i + 1;
    for (unsigned int s = seed; s < end; ++s) expected = expected * 1664525U + s + i;
    if (values[i] != expected) {
      std::printf("{\"error\":\"wrong value at %u\"}\n", i);
      std::exit(1);
    }
  }
}

void use_linear(Report* report, cudaStream_t stream) {
  const std::vector<uint32_t> input = first_values();
  void *plain = nullptr, *ordered = nullptr, *managed = nullptr;
  check(cudaMalloc(&plain, kBytes), "cudaMalloc");
  check(cudaMallocAsync(&ordered, kBytes, stream), "cudaMallocAsync");
  check(cudaMallocManaged(&managed, kBytes, cudaMemAttachGlobal), "cudaMallocManaged");
  Checksum checksum;
  unsigned int seed = 7;
  for (void* data : {plain, ordered, managed}) {
    check(cudaMemcpyAsync(data, input.data(), kBytes, cudaMemcpyDefault, stream), "write");
    launch(data, seed, stream);
    const std::vector<uint32_t> output = read(data, stream);
    expect_mixed(output, seed, seed + 1);
    ++seed;
    checksum.add(output);
  }
  check(cudaFreeAsync(ordered, stream), "cudaFreeAsync");
  check(cudaFree(managed), "cudaFree");
  check(cudaFree(plain), "cudaFree");
  report->result("linear", checksum.value());
}

void use_array(Report* report, cudaStream_t stream) {
  constexpr size_t kSide = 1024, kRow = kSide * sizeof(uint32_t);
  static_assert(kSide * kSide == kCount);
  const cudaChannelFormatDesc format = {32, 0, 0, 0, cudaChannelFormatKindUnsigned};
  const std::vector<uint32_t> input = first_values();
  cudaArray_t array = nullptr;
  void* data = nullptr;
  check(cudaMallocArray(&array, &format, kSide, kSide, 0), "cudaMallocArray");
  check(cudaMalloc(&data, kBytes), "cudaMalloc");
  check(cudaMemcpy2DToArrayAsync(array, 0, 0, input.data(), kRow, kRow, kSide,
                                 cudaMemcpyHostToDevice, stream),
        "cudaMemcpy2DToArrayAsync");
  check(cudaMemcpy2DFromArrayAsync(data, kRow, array, 0, 0, kRow, kSide, cudaMemcpyDeviceToDevice,
                                   stream),
        "cudaMemcpy2DFromArrayAsync");
  launch(data, 99, stream);
  Checksum checksum;
  checksum.add(read(data, stream));
  check(cudaFreeArray(array), "cudaFreeArray");
  check(cudaFree(data), "cudaFree");
  report->result("array", checksum.value());
}

// Two streams that wait for each other's events.
void use_streams(Report* report) {
  cudaStream_t streams[2] = {};
  cudaEvent_t events[2] = {};
  for (int i = 0; i < 2; ++i) {
    check(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming), "cudaEventCreate");
  }
  const std::vector<uint32_t> input = first_values();
  void* data = nullptr;
  check(cudaMalloc(&data, kBytes), "cudaMalloc");
  // In the stream that reads it first: cudaMemcpy may return before the last bytes have arrived,
  // and streams that do not block do not wait for it.
  check(cudaMemcpyAsync(data, input.data(), kBytes, cudaMemcpyHostToDevice, streams[0]), "write");
  constexpr unsigned int kRounds = 50;
  for (unsigned int round = 0; round < kRounds; ++round) {
    const unsigned int here = round % 2;
    launch(data, round, streams[here]);
    check(cudaEventRecord(events[here], streams[here]), "cudaEventRecord");
    check(cudaStreamWaitEvent(streams[1 - here], events[here], 0), "cudaStreamWaitEvent");
  }
  const std::vector<uint32_t> output = read(data, streams[0]);
  expect_mixed(output, 0, kRounds);
  Checksum checksum;
  checksum.add(output);
  for (int i = 0; i < 2; ++i) {
    check(cudaEventDestroy(events[i]), "cudaEventDestroy");
    check(cudaStreamDestroy(streams[i]), "cudaStreamDestroy");
  }
  check(cudaFree(data), "cudaFree");
  report->result("streams", checksum.value());
}

void use_graph(Report* report, cudaStream_t stream) {
  void* data = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaMalloc(&data, kBytes), "cudaMalloc");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  check(cudaMemsetAsync(data, 3, kBytes / 2, stream), "cudaMemsetAsync");
  for (unsigned int seed = 0; seed < 5; ++seed) launch(data, seed, stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check(cudaMemset(data, 1, kBytes), "cudaMemset");
  for (int i = 0; i < 20; ++i) check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  Checksum checksum;
  checksum.add(read(data, stream));
  check(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaFree(data), "cudaFree");
  report->result("graph", checksum.value());
}

// The driver API beside the runtime: a module that the driver compiles, in the runtime's context.
void use_driver(Report* report, cudaStream_t stream) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  const auto load =
      reinterpret_cast<CUresult (*)(CUmodule*, const void*)>(dlsym(library, "cuModuleLoadData"));
  const auto find = reinterpret_cast<CUresult (*)(CUfunction*, CUmodule, const char*)>(
      dlsym(library, "cuModuleGetFunction"));
  const auto run = reinterpret_cast<decltype(&cuLaunchKernel)>(dlsym(library, "cuLaunchKernel"));
  const std::vector<uint32_t> input = first_values();
  void* data = nullptr;
  check(cudaMalloc(&data, kBytes), "cudaMalloc");
  check(cudaMemcpy(data, input.data(), kBytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  unsigned int count = kCount, seed = 11;
  void* arguments[] = {&data, &count, &seed};
  const bool good =
      load(&module, mix_ptx) == CUDA_SUCCESS && find(&function, module, "mix") == CUDA_SUCCESS &&
      run(function, kCount / 256, 1, 1, 256, 1, 1, 0, stream, arguments, nullptr) == CUDA_SUCCESS;
  if (!good) fail("cuModuleLoadData and launch", cudaErrorUnknown);
  const std::vector<uint32_t> output = read(data, stream);
  expect_mixed(output, seed, seed + 1);
  Checksum checksum;
  checksum.add(output);
  check(cudaFree(data), "cudaFree");
  report->result("driver", checksum.value());
}

void fill(Report* report) {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  report->figure("total", total);
  if (limit() == 0) return;
  uint64_t granted = 0;
  cudaError_t code = cudaSuccess;
  void* data = nullptr;
  while (granted <= limit() && (code = cudaMalloc(&data, kPiece)) == cudaSuccess) granted += kPiece;
  hold();
  report->figure("granted", granted);
  report->figure("refused", code == cudaErrorMemoryAllocation);
}

int run() {
  int runtime = 0, devices = 0;
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const cudaError_t code = cudaGetDeviceCount(&devices);
  if (code == cudaErrorInsufficientDriver || code == cudaErrorNoDevice) {
    return skip("no GPU, or its driver is too old for this version");
  }
  check(code, "cudaGetDeviceCount");
  const Registration registration;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  Report report;
  report.version(std::to_string(runtime / 1000) + '.' + std::to_string(runtime % 1000 / 10));
  use_linear(&report, stream);
  use_array(&report, stream);
  use_streams(&report);
  use_graph(&report, stream);
  use_driver(&report, stream);
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  fill(&report);
  report.print();
  return 0;
}

}  // namespace
}  // namespace softmig::compat

int main() { return softmig::compat::run(); }
