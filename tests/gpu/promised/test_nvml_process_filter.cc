// test_nvml_process_filter: NVML lists this process and its three children, and in a slice nobody
// else. Without a GPU or NVML it prints SKIP and succeeds.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <set>
#include <vector>

#include "common/gpu.h"
#include "common/nvml.h"
#include "common/peer.h"

namespace softmig::gpu_test {
namespace {

int hold(Channel& channel, uint64_t bytes) {
  Session session;
  std::string step;
  CUresult code = session.open(Lookup{}, 0, &step);
  CUdeviceptr address = 0;
  if (code == CUDA_SUCCESS) code = session.driver.cuMemAlloc_v2(&address, bytes);
  channel.put(code);
  char byte = 0;
  channel.get(&byte);
  return 0;
}

std::set<unsigned int> listed(const Nvml& nvml, nvmlDevice_t device) {
  std::vector<nvmlProcessInfo_t> list(1024);
  auto count = static_cast<unsigned int>(list.size());
  std::set<unsigned int> pids;
  if (nvml.nvmlDeviceGetComputeRunningProcesses_v3(device, &count, list.data()) != NVML_SUCCESS) {
    return pids;
  }
  for (unsigned int i = 0; i < count; ++i) pids.insert(list[i].pid);
  return pids;
}

int run() {
  std::vector<std::unique_ptr<Child>> children;
  for (uint64_t mib = 1; mib <= 3; ++mib) {
    children.push_back(
        std::make_unique<Child>([mib](Channel& channel) { return hold(channel, mib * kMiB); }));
  }
  Session session;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  std::string step;
  const CUresult opened = session.open(Lookup{}, 0, &step);
  if (opened == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED || opened == CUDA_ERROR_NO_DEVICE ||
      !nvml.open()) {
    std::printf("SKIP: no GPU or no NVML (%s)\n", step.c_str());
    return 0;
  }
  nvml.nvmlDeviceGetHandleByIndex_v2(0, &device);
  std::set<unsigned int> job = {static_cast<unsigned int>(getpid())};
  bool ok = opened == CUDA_SUCCESS;
  for (const auto& child : children) {
    CUresult code = CUDA_ERROR_UNKNOWN;
    ok = child->channel().get(&code) && code == CUDA_SUCCESS && ok;
    job.insert(static_cast<unsigned int>(child->pid()));
  }
  const std::set<unsigned int> pids = listed(nvml, device);
  for (unsigned int pid : job) {
    if (pids.count(pid) == 1) continue;
    std::printf("FAIL: process %u is not listed\n", pid);
    ok = false;
  }
  std::printf("%s: %zu processes listed, %zu of them ours\n", ok ? "PASS" : "FAIL", pids.size(),
              job.size());
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace softmig::gpu_test

int main() { return softmig::gpu_test::run(); }
