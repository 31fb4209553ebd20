// A program that probes for CUDA with weak symbols and calls what it finds, on a machine without a
// driver. Prints one line per function: its name and the result, or "absent".
#include <cstdio>

#include "abi/cuda.h"
#include "abi/nvml.h"

extern "C" {
[[gnu::weak]] decltype(cuInit) cuInit;
[[gnu::weak]] decltype(cuMemAlloc_v2) cuMemAlloc_v2;
[[gnu::weak]] decltype(cuMemGetInfo_v2) cuMemGetInfo_v2;
[[gnu::weak]] decltype(cuDevicePrimaryCtxRetain) cuDevicePrimaryCtxRetain;
[[gnu::weak]] decltype(cuGetProcAddress_v2) cuGetProcAddress_v2;
[[gnu::weak]] decltype(nvmlDeviceGetMemoryInfo) nvmlDeviceGetMemoryInfo;
}

namespace {

template <typename Call>
void probe(const char* name, bool there, Call call) {
  if (!there) printf("%s absent\n", name);
  if (there) printf("%s %d\n", name, static_cast<int>(call()));
}

}  // namespace

int main() {
  CUdeviceptr address = 0;
  size_t free_bytes = 0, total = 0;
  CUcontext context = nullptr;
  void* function = nullptr;
  nvmlMemory_t memory = {};
  CUdriverProcAddressQueryResult status;
  probe("cuInit", cuInit != nullptr, [] { return cuInit(0); });
  probe("cuMemAlloc_v2", cuMemAlloc_v2 != nullptr,
        [&] { return cuMemAlloc_v2(&address, 1 << 20); });
  probe("cuMemGetInfo_v2", cuMemGetInfo_v2 != nullptr,
        [&] { return cuMemGetInfo_v2(&free_bytes, &total); });
  probe("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain != nullptr,
        [&] { return cuDevicePrimaryCtxRetain(&context, 0); });
  probe("cuGetProcAddress_v2", cuGetProcAddress_v2 != nullptr,
        [&] { return cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 0, &status); });
  probe("nvmlDeviceGetMemoryInfo", nvmlDeviceGetMemoryInfo != nullptr,
        [&] { return nvmlDeviceGetMemoryInfo(nullptr, &memory); });
  return 0;
}
