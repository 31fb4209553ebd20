// The simulated NVML which also lists what it is told, as a driver does that holds memory in the
// name of a process that is gone. SOFTMIG_TEST_PROCESSES names a file with a line "INDEX PID MIB"
// for each.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "abi/nvml.h"

extern "C" nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                unsigned int* count,
                                                                nvmlProcessInfo_t* list) {
  static const auto simulated =
      reinterpret_cast<decltype(&nvmlDeviceGetComputeRunningProcesses_v3)>(
          dlsym(RTLD_NEXT, "nvmlDeviceGetComputeRunningProcesses_v3"));
  const unsigned int room = *count;
  const nvmlReturn_t result = simulated(device, count, list);
  const char* path = std::getenv("SOFTMIG_TEST_PROCESSES");
  std::FILE* file = result == NVML_SUCCESS && path != nullptr ? std::fopen(path, "r") : nullptr;
  if (file == nullptr) return result;
  unsigned int own = 0, index = 0, pid = 0;
  unsigned long long mib = 0;
  nvmlDeviceGetIndex(device, &own);
  while (std::fscanf(file, "%u %u %llu", &index, &pid, &mib) == 3) {
    if (index == own && *count < room) list[(*count)++] = {pid, mib << 20, ~0U, ~0U};
  }
  std::fclose(file);
  return NVML_SUCCESS;
}
