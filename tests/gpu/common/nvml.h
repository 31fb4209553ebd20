// NVML by dlopen and dlsym, as nvidia-smi finds it. A function that this NVML lacks stays null.
#pragma once

#include "abi/nvml.h"

#define SM_NVML_FUNCTIONS(X)                    \
  X(nvmlInit_v2)                                \
  X(nvmlShutdown)                               \
  X(nvmlDeviceGetCount_v2)                      \
  X(nvmlDeviceGetHandleByIndex_v2)              \
  X(nvmlDeviceGetHandleByUUID)                  \
  X(nvmlDeviceGetUUID)                          \
  X(nvmlDeviceGetMemoryInfo)                    \
  X(nvmlDeviceGetMemoryInfo_v2)                 \
  X(nvmlDeviceGetComputeRunningProcesses)       \
  X(nvmlDeviceGetComputeRunningProcesses_v2)    \
  X(nvmlDeviceGetComputeRunningProcesses_v3)    \
  X(nvmlDeviceGetGraphicsRunningProcesses)      \
  X(nvmlDeviceGetGraphicsRunningProcesses_v2)   \
  X(nvmlDeviceGetGraphicsRunningProcesses_v3)   \
  X(nvmlDeviceGetMPSComputeRunningProcesses)    \
  X(nvmlDeviceGetMPSComputeRunningProcesses_v2) \
  X(nvmlDeviceGetMPSComputeRunningProcesses_v3) \
  X(nvmlDeviceGetRunningProcessDetailList)      \
  X(nvmlDeviceGetUtilizationRates)              \
  X(nvmlDeviceGetProcessUtilization)            \
  X(nvmlDeviceGetProcessesUtilizationInfo)

namespace softmig::gpu_test {

struct Nvml {
#define SM_NVML_POINTER(name) decltype(&::name) name = nullptr;
  SM_NVML_FUNCTIONS(SM_NVML_POINTER)
#undef SM_NVML_POINTER

  // Loads and initialises. False: there is no NVML, or it does not start.
  bool open();
};

}  // namespace softmig::gpu_test
