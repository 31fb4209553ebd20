// driver LOOKUP: a program of the driver API alone. LOOKUP is how it finds the functions, as
// tests/gpu/common/driver.h reads it: "link", "handle", "proc2:12040:0" ...
#include <string>

#include "common/gpu.h"
#include "report.h"

// MIX_PTX is the path of the kernel's file.
__asm__(".section .rodata\n.align 8\n.global mix_ptx\nmix_ptx:\n.incbin \"" MIX_PTX
        "\"\n.byte 0\n.previous\n");
extern "C" const char mix_ptx[];

namespace softmig::compat {
namespace {

using gpu_test::Driver;
constexpr unsigned int kCount = 1 << 20;
constexpr size_t kBytes = kCount * sizeof(uint32_t);

class Program {
 public:
  explicit Program(const gpu_test::Session& session) : d_(session.driver) {}

  // False: a call failed; what() says which.
  bool run(Report* report) {
    return check(d_.cuModuleLoadData(&module_, mix_ptx), "cuModuleLoadData") &&
           check(d_.cuModuleGetFunction(&mix_, module_, "mix"), "cuModuleGetFunction") &&
           check(d_.cuStreamCreate(&stream_, CU_STREAM_DEFAULT), "cuStreamCreate") &&
           linear(report) && ordered(report) && graph(report) &&
           check(d_.cuStreamDestroy_v2(stream_), "cuStreamDestroy") &&
           check(d_.cuModuleUnload(module_), "cuModuleUnload");
  }
  const std::string& what() const { return what_; }

 private:
  bool check(CUresult code, const char* what) {
    if (code != CUDA_SUCCESS) what_ = std::string(what) + ": " + gpu_test::error_name(d_, code);
    return code == CUDA_SUCCESS;
  }

  bool launch(CUdeviceptr data, unsigned int seed) {
    unsigned int count = kCount;
    void* arguments[] = {&data, &count, &seed};
    return check(
        d_.cuLaunchKernel(mix_, kCount / 256, 1, 1, 256, 1, 1, 0, stream_, arguments, nullptr),
        "cuLaunchKernel");
  }

  bool read(CUdeviceptr data, const char* name, Report* report) {
    std::vector<uint32_t> values(kCount);
    if (!check(d_.cuStreamSynchronize(stream_), "cuStreamSynchronize") ||
        !check(d_.cuMemcpyDtoH_v2(values.data(), data, kBytes), "cuMemcpyDtoH")) {
      return false;
    }
    Checksum checksum;
    checksum.add(values);
    report->result(name, checksum.value());
    return true;
  }

  bool linear(Report* report) {
    CUdeviceptr data = 0;
    return check(d_.cuMemAlloc_v2(&data, kBytes), "cuMemAlloc") &&
           check(d_.cuMemsetD8_v2(data, 3, kBytes), "cuMemsetD8") && launch(data, 7) &&
           read(data, "linear", report) && check(d_.cuMemFree_v2(data), "cuMemFree");
  }

  bool ordered(Report* report) {
    CUdeviceptr data = 0;
    return check(d_.cuMemAllocAsync(&data, kBytes, stream_), "cuMemAllocAsync") &&
           check(d_.cuStreamSynchronize(stream_), "cuStreamSynchronize") &&
           check(d_.cuMemsetD8_v2(data, 5, kBytes), "cuMemsetD8") && launch(data, 8) &&
           read(data, "ordered", report) &&
           check(d_.cuMemFreeAsync(data, stream_), "cuMemFreeAsync");
  }

  bool graph(Report* report) {
    CUdeviceptr data = 0;
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    if (!check(d_.cuMemAlloc_v2(&data, kBytes), "cuMemAlloc") ||
        !check(d_.cuMemsetD8_v2(data, 9, kBytes), "cuMemsetD8") ||
        !check(d_.cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL),
               "cuStreamBeginCapture")) {
      return false;
    }
    for (unsigned int seed = 0; seed < 5; ++seed) {
      if (!launch(data, seed)) return false;
    }
    if (!check(d_.cuStreamEndCapture(stream_, &graph), "cuStreamEndCapture") ||
        !check(d_.cuGraphInstantiateWithFlags(&exec, graph, 0), "cuGraphInstantiate")) {
      return false;
    }
    for (int i = 0; i < 20; ++i) {
      if (!check(d_.cuGraphLaunch(exec, stream_), "cuGraphLaunch")) return false;
    }
    return read(data, "graph", report) &&
           check(d_.cuGraphExecDestroy(exec), "cuGraphExecDestroy") &&
           check(d_.cuGraphDestroy(graph), "cuGraphDestroy") &&
           check(d_.cuMemFree_v2(data), "cuMemFree");
  }

  const Driver& d_;
  CUmodule module_ = nullptr;
  CUfunction mix_ = nullptr;
  CUstream stream_ = nullptr;
  std::string what_;
};

void fill(const gpu_test::Session& session, Report* report) {
  report->figure("total", session.total_bytes());
  if (limit() == 0) return;
  uint64_t granted = 0;
  CUresult code = CUDA_SUCCESS;
  CUdeviceptr data = 0;
  while (granted <= limit() &&
         (code = session.driver.cuMemAlloc_v2(&data, kPiece)) == CUDA_SUCCESS) {
    granted += kPiece;
  }
  hold();
  report->figure("granted", granted);
  report->figure("refused", code == CUDA_ERROR_OUT_OF_MEMORY);
}

int run(const char* name) {
  gpu_test::Lookup lookup;
  if (!gpu_test::parse_lookup(name, &lookup)) return 2;
  gpu_test::Session session;
  std::string step;
  const CUresult opened = session.open(lookup, 0, &step);
  if (opened == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED || opened == CUDA_ERROR_NO_DEVICE) {
    return skip("no GPU: " + step);
  }
  Report report;
  int version = 0;
  session.driver.cuDriverGetVersion(&version);
  report.version(std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10));
  Program program(session);
  if (opened != CUDA_SUCCESS || !program.run(&report)) {
    std::printf("{\"error\":\"%s\"}\n", (opened != CUDA_SUCCESS ? step : program.what()).c_str());
    return 1;
  }
  fill(session, &report);
  report.print();
  return 0;
}

}  // namespace
}  // namespace softmig::compat

int main(int argc, char** argv) { return argc == 2 ? softmig::compat::run(argv[1]) : 2; }
