// Who keeps a job's memory within its limit, beside the library: one interface, so that a node may
// have a driver that does it itself.
//
//   library   libsoftmig.so alone (and the agent's verdicts): every driver
//   driver    limits per cgroup in the driver as well, from r615 on, where NVML has
//             nvmlDeviceSetMemoryLimits_v1 and the jobs' cgroups are of version 2
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/driver_watch.h"

namespace softmig::agent {

struct JobLimit {
  uint64_t job = 0;
  uint64_t device_key = 0;
  uint64_t bytes = 0;
};

class MemoryBackend {
 public:
  virtual ~MemoryBackend() = default;
  virtual const char* name() const = 0;
  // What the driver should be told now, given all the limits there are.
  virtual std::vector<LimitRequest> wanted(const std::vector<JobLimit>& limits,
                                           uint64_t now_ns) = 0;
  // What it said to that.
  virtual void answered(const std::vector<LimitRequest>& answers, uint64_t now_ns) = 0;
};

// `cgroups`: where the file system of cgroup v2 is mounted ("/sys/fs/cgroup").
std::unique_ptr<MemoryBackend> make_library_backend();
std::unique_ptr<MemoryBackend> make_driver_backend(std::string cgroups);

// The cgroup of a job of Slurm below a mount of cgroup v2; empty if there is none.
std::string job_cgroup(const std::string& cgroups, uint64_t job);

}  // namespace softmig::agent
