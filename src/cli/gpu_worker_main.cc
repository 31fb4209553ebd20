// softmig gpu-worker: the process behind cli/gpu_worker.h.
#include <fmt/core.h>
#include <unistd.h>

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/cuda_driver.h"
#include "cli/failure.h"

namespace softmig::cli {
namespace {

constexpr const char* kKernel = R"(
.version 6.0
.target sm_50
.address_size 64
.visible .entry nothing() { ret; }
)";

class Worker {
 public:
  std::string answer(const std::string& request) {
    std::istringstream words(request);
    std::string verb, argument;
    words >> verb >> argument;
    if (driver_.cuInit == nullptr) {
      const std::string missing = driver_.load();
      if (!missing.empty()) return fmt::format("error {} {}", -1, missing);
    }
    if (verb == "init") return done(driver_.cuInit(0));
    if (verb == "open") return done(driver_.open(argument, &device_));
    if (verb == "launch") return done(launch());
    if (verb == "alloc") return done(allocate(std::stoull(argument)));
    if (verb == "free") return done(free_all());
    return verb == "info" ? info() : fmt::format("error -1 no such request: {}", verb);
  }

 private:
  std::string done(CUresult result) const {
    if (result == CUDA_SUCCESS) return "ok";
    return fmt::format("error {} {}", static_cast<int>(result), driver_.name_of(result));
  }

  CUresult launch() {
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    CUresult result = driver_.cuModuleLoadData(&module, kKernel);
    if (result == CUDA_SUCCESS) result = driver_.cuModuleGetFunction(&function, module, "nothing");
    if (result == CUDA_SUCCESS) {
      result = driver_.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
    }
    return result == CUDA_SUCCESS ? driver_.cuCtxSynchronize() : result;
  }

  CUresult allocate(uint64_t bytes) {
    CUdeviceptr address = 0;
    const CUresult result = driver_.cuMemAlloc_v2(&address, bytes);
    if (result == CUDA_SUCCESS) taken_.push_back(address);
    return result;
  }

  CUresult free_all() {
    CUresult result = CUDA_SUCCESS;
    for (; result == CUDA_SUCCESS && !taken_.empty(); taken_.pop_back()) {
      result = driver_.cuMemFree_v2(taken_.back());
    }
    return result;
  }

  std::string info() const {
    size_t free = 0, total = 0, device = 0;
    CUresult result = driver_.cuMemGetInfo_v2(&free, &total);
    if (result == CUDA_SUCCESS) result = driver_.cuDeviceTotalMem_v2(&device, device_);
    return result == CUDA_SUCCESS ? fmt::format("ok {} {} {}", free, total, device) : done(result);
  }

  CudaDriver driver_;
  CUdevice device_ = 0;
  std::vector<CUdeviceptr> taken_;
};

}  // namespace

void add_gpu_worker(CLI::App& app, int* status) {
  CLI::App* worker = app.add_subcommand("gpu-worker", "Use CUDA on behalf of calibrate and demo");
  worker->group("");  // not in the help: nobody types it
  worker->callback([status] {
    Worker work;
    fmt::print("hello {}\n", getpid());
    std::fflush(stdout);
    for (std::string request; std::getline(std::cin, request);) {
      fmt::print("{}\n", work.answer(request));
      std::fflush(stdout);
    }
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
