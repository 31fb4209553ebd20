#include "cli/cuda_driver.h"

#include <dlfcn.h>

#include <cstring>

#include "policy/settings.h"

namespace softmig::cli {

std::string CudaDriver::load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return "libcuda.so.1 was not found";
  std::string missing;
#define SM_FIND(symbol)                                                   \
  (symbol) = reinterpret_cast<decltype(symbol)>(dlsym(library, #symbol)); \
  if ((symbol) == nullptr) missing = "libcuda.so.1 has no " #symbol;
  SM_DRIVER_FUNCTIONS(SM_FIND)
#undef SM_FIND
  return missing;
}

CUresult CudaDriver::open(const std::string& uuid, CUdevice* device) const {
  policy::Uuid wanted = {};
  if (!policy::parse_uuid(uuid, &wanted)) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = cuInit(0);
  int count = 0;
  if (result == CUDA_SUCCESS) result = cuDeviceGetCount(&count);
  if (result != CUDA_SUCCESS) return result;
  for (int i = 0; i < count; i++) {
    CUuuid found = {};
    if (cuDeviceGet(device, i) != CUDA_SUCCESS ||
        cuDeviceGetUuid_v2(&found, *device) != CUDA_SUCCESS ||
        std::memcmp(found.bytes, wanted.byte, sizeof wanted.byte) != 0) {
      continue;
    }
    CUcontext context = nullptr;
    result = cuDevicePrimaryCtxRetain(&context, *device);
    return result == CUDA_SUCCESS ? cuCtxSetCurrent(context) : result;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

std::string CudaDriver::name_of(CUresult result) const {
  const char* name = nullptr;
  cuGetErrorName(result, &name);
  return name != nullptr ? name : "unknown";
}

}  // namespace softmig::cli
