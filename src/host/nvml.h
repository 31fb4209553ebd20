// The driver's own figures, through NVML, which is loaded only when it is asked for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/nvml.h"
#include "policy/settings.h"

namespace softmig::host {

struct NvmlDevice {
  nvmlDevice_t handle = nullptr;
  int index = 0;  // as nvidia-smi numbers
  int minor = 0;  // N of /dev/nvidiaN
  std::string name;
  std::string uuid_text;  // "GPU-..."
  policy::Uuid uuid = {};
  uint64_t key = 0;  // job::device_key of it
};

struct NvmlProcess {
  uint32_t pid = 0;
  uint64_t bytes = 0;
  bool known = false;  // false: the driver lists the process and does not say how much it holds
};

struct NvmlMemory {
  uint64_t total = 0, used = 0;  // bytes; what the driver keeps for itself is not in `used`
};

// How busy one process kept a device within the last sampling periods, in percent.
struct NvmlBusy {
  uint32_t pid = 0;
  unsigned percent = 0, memory_percent = 0;
};

class Nvml {
 public:
  // Loads and starts NVML. Null: *error says why. `library` may be the path of a simulated one.
  static std::unique_ptr<Nvml> open(std::string* error,
                                    const std::string& library = "libnvidia-ml.so.1");
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  const std::vector<NvmlDevice>& devices() const { return devices_; }
  // Null if there is none. A device is named by its key or by the start of its UUID.
  const NvmlDevice* device_with_key(uint64_t key) const;
  std::string driver_version() const;
  std::optional<NvmlMemory> memory(nvmlDevice_t device) const;
  // Percent of the last sampling period (a sixth of a second to a second) in which a kernel ran.
  std::optional<unsigned> busy(nvmlDevice_t device) const;
  // Processes with a CUDA context, one entry a pid. None if the driver does not tell.
  std::optional<std::vector<NvmlProcess>> processes(nvmlDevice_t device) const;
  // The same with those that draw and the clients of MPS.
  std::optional<std::vector<NvmlProcess>> all_processes(nvmlDevice_t device) const;
  // Who kept the device busy since `since_us` (microseconds since 1970; 0: as far back as the
  // driver knows). None if the driver does not tell. One sample every 200 ms on an H100; the call
  // takes 1.4 ms there.
  std::optional<std::vector<NvmlBusy>> process_busy(nvmlDevice_t device, uint64_t since_us) const;

  // Memory limits of a cgroup that the driver itself enforces (r615 and later, cgroup v2). They end
  // with the cgroup. `cgroup` is its full path below /sys.
  bool can_limit_cgroups() const;
  nvmlReturn_t limit_cgroup(nvmlDevice_t device, const std::string& cgroup, uint64_t bytes) const;

 private:
  struct Functions;
  Nvml();
  std::string start(const std::string& library);
  void find_devices();

  void* library_ = nullptr;
  bool started_ = false;
  std::unique_ptr<Functions> call_;
  std::vector<NvmlDevice> devices_;
};

}  // namespace softmig::host
