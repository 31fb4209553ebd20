// nvmlDeviceGetMemoryInfo: the slice as total, the job's use as used.
#include <algorithm>

#include "nvml/device.h"

namespace softmig::nvml {
namespace {

template <typename Memory>
nvmlReturn_t show_slice(nvmlReturn_t result, nvmlDevice_t handle, Memory* memory) {
  if (!active() || result != NVML_SUCCESS || memory == nullptr) return result;
  const int device = device_of(handle);
  if (device < 0) return result;
  const job::DeviceMemory mine = slice().view(device);
  if (mine.limit == 0 && slice().config().source != job::Source::kClosed) return result;
  memory->total = std::min<unsigned long long>(memory->total, mine.limit);
  memory->used = std::min<unsigned long long>(mine.used, memory->total);
  memory->free = std::min<unsigned long long>(memory->free, memory->total - memory->used);
  if constexpr (requires { memory->reserved; }) memory->reserved = 0;
  return result;
}

}  // namespace
}  // namespace softmig::nvml

SM_HOOK(nvmlDeviceGetMemoryInfo, 0)
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  return softmig::nvml::show_slice(next_nvmlDeviceGetMemoryInfo(device, memory), device, memory);
}

SM_HOOK(nvmlDeviceGetMemoryInfo_v2, 0)
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) {
  return softmig::nvml::show_slice(next_nvmlDeviceGetMemoryInfo_v2(device, memory), device, memory);
}
