// The CUDA driver for our own workers, found as most programs do: dlopen and dlsym.
#pragma once

#include <string>

#include "abi/cuda.h"

namespace softmig::cli {

#define SM_DRIVER_FUNCTIONS(X) \
  X(cuInit)                    \
  X(cuGetErrorName)            \
  X(cuDeviceGetCount)          \
  X(cuDeviceGet)               \
  X(cuDeviceGetAttribute)      \
  X(cuDeviceGetUuid_v2)        \
  X(cuDeviceTotalMem_v2)       \
  X(cuDevicePrimaryCtxRetain)  \
  X(cuCtxSetCurrent)           \
  X(cuModuleLoadData)          \
  X(cuModuleGetFunction)       \
  X(cuLaunchKernel)            \
  X(cuCtxSynchronize)          \
  X(cuStreamCreate)            \
  X(cuEventCreate)             \
  X(cuEventRecord)             \
  X(cuEventQuery)              \
  X(cuMemAlloc_v2)             \
  X(cuMemFree_v2)              \
  X(cuMemGetInfo_v2)

struct CudaDriver {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration
#define SM_POINTER(name) decltype(&::name) name = nullptr;
  SM_DRIVER_FUNCTIONS(SM_POINTER)
#undef SM_POINTER

  // Empty, or what is missing.
  std::string load();
  // Makes the device with this UUID ("GPU-...") current, with its primary context.
  CUresult open(const std::string& uuid, CUdevice* device) const;
  // "CUDA_ERROR_OUT_OF_MEMORY"
  std::string name_of(CUresult result) const;
};

}  // namespace softmig::cli
