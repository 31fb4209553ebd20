// The simulated NVML with nvmlDeviceSetMemoryLimits_v1 as r615 documents it: what it is told goes
// to the file that SOFTMIG_TEST_LIMITS names. It refuses where that file ends with ".refuse".
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi/nvml.h"

struct Limits {
  const char* cgroup;
  unsigned long long soft, hard;
};

extern "C" nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, Limits* limits) {
  unsigned int index = 0;
  nvmlDeviceGetIndex(device, &index);
  const char* path = std::getenv("SOFTMIG_TEST_LIMITS");
  if (path == nullptr) return NVML_ERROR_NOT_SUPPORTED;
  std::FILE* file = std::fopen(path, "a");
  if (file == nullptr) return NVML_ERROR_UNKNOWN;
  std::fprintf(file, "%u %s %llu %llu\n", index, limits->cgroup, limits->soft, limits->hard);
  std::fclose(file);
  const size_t length = std::strlen(path);
  const bool refuses = length > 7 && std::strcmp(path + length - 7, ".refuse") == 0;
  return refuses ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}
