// The driver's figures, asked by a thread of their own: NVML may hang, fail, go and come back, and
// the agent must not.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "host/nvml.h"

namespace softmig::agent {

struct DeviceLook {
  uint64_t key = 0;
  int index = 0;  // as nvidia-smi numbers
  std::string name, uuid;
  uint64_t memory = 0, used = 0;  // bytes; 0: the driver does not tell
  std::optional<unsigned> busy;   // percent
  bool listed = false;            // `processes` is what there is
  std::vector<host::NvmlProcess> processes;
  // GPU time of the processes, where it was asked for and the driver tells: of so many ns.
  uint64_t sample_ns = 0;
  std::vector<host::NvmlBusy> busy_processes;
};

// A memory limit that the driver shall enforce for a cgroup.
struct LimitRequest {
  uint64_t job = 0;
  uint64_t device_key = 0;
  std::string cgroup;
  uint64_t bytes = 0;
  nvmlReturn_t answer = NVML_SUCCESS;

  bool operator==(const LimitRequest&) const = default;
};

struct DriverLook {
  uint64_t taken_ns = 0;  // CLOCK_MONOTONIC, when it was begun
  std::string trouble;    // why there is no driver; empty: there is
  std::string driver;     // its version
  bool can_limit = false;
  std::vector<DeviceLook> devices;
  std::vector<LimitRequest> limits;  // with their answers
};

class DriverWatch {
 public:
  explicit DriverWatch(std::string library);
  // Does not wait for a driver that hangs.
  ~DriverWatch();
  DriverWatch(const DriverWatch&) = delete;
  DriverWatch& operator=(const DriverWatch&) = delete;

  // None: the driver has not answered in time. It is not asked anything else until it has.
  std::optional<DriverLook> look(bool with_busy, std::vector<LimitRequest> limits,
                                 std::chrono::milliseconds patience);

 private:
  struct Work;
  std::shared_ptr<Work> work_;
};

}  // namespace softmig::agent
