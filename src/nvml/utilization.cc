// Samples of what each process does: the job's own processes only.
#include "nvml/device.h"

namespace softmig::nvml {
namespace {

// Moves the job's own samples to the front; returns how many there are.
template <typename Sample>
unsigned int keep_own(Sample* samples, unsigned int count) {
  unsigned int own = 0;
  for (unsigned int i = 0; i < count; i++) {
    if (is_own(samples[i].pid)) samples[own++] = samples[i];
  }
  return own;
}

}  // namespace
}  // namespace softmig::nvml

// A count of 0 asks how much room is needed: the driver's answer stands, more than enough.
SM_HOOK(nvmlDeviceGetProcessUtilization, 0)
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t* samples,
                                             unsigned int* count, unsigned long long since) {
  const nvmlReturn_t result = next_nvmlDeviceGetProcessUtilization(device, samples, count, since);
  if (!softmig::nvml::active() || result != NVML_SUCCESS || samples == nullptr) return result;
  *count = softmig::nvml::keep_own(samples, *count);
  return *count != 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

SM_HOOK(nvmlDeviceGetProcessesUtilizationInfo, 0)
nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                   nvmlProcessesUtilizationInfo_t* info) {
  const nvmlReturn_t result = next_nvmlDeviceGetProcessesUtilizationInfo(device, info);
  if (!softmig::nvml::active() || result != NVML_SUCCESS || info->procUtilArray == nullptr) {
    return result;
  }
  info->processSamplesCount =
      softmig::nvml::keep_own(info->procUtilArray, info->processSamplesCount);
  return info->processSamplesCount != 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
