#include "nvml/device.h"

#include "job/cgroup.h"

SM_DRIVER(nvmlDeviceGetUUID);
SM_DRIVER(nvmlDeviceGetIndex);

namespace softmig::nvml {
namespace {

struct Known {
  std::atomic<nvmlDevice_t> handle{nullptr};
  std::atomic<int> device{-1};
};
constinit Known g_known[abi::kMaxDevices];

int enter_device(nvmlDevice_t handle) {
  char text[96] = {};
  unsigned int index = 0;
  policy::Uuid uuid;
  if (next_nvmlDeviceGetUUID(handle, text, sizeof text) != NVML_SUCCESS ||
      !policy::parse_uuid(text, &uuid)) {
    return -1;
  }
  const bool has_index = next_nvmlDeviceGetIndex(handle, &index) == NVML_SUCCESS;
  return slice().add_device_by_guess(uuid, has_index ? static_cast<int>(index) : -1);
}

}  // namespace

int device_of(nvmlDevice_t handle) {
  for (Known& known : g_known) {
    nvmlDevice_t seen = known.handle.load(std::memory_order_acquire);
    if (seen == handle) {
      const int device = known.device.load(std::memory_order_acquire);
      if (device >= 0) return device;
    }
    if (seen != nullptr && seen != handle) continue;
    const int device = enter_device(handle);
    if (device >= 0 && device != job::kUncounted &&
        (seen == handle || known.handle.compare_exchange_strong(seen, handle))) {
      known.device.store(device, std::memory_order_release);
    }
    return device;
  }
  return enter_device(handle);
}

bool is_own(unsigned int pid) {
  if (slice().is_member(pid)) return true;
  const job::Identity& who = slice().config().identity;
  return who.from_cgroup && job::job_of_process("/proc", pid) == who.job_id;
}

}  // namespace softmig::nvml
