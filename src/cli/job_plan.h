// From what Slurm gave a job on this node to the lines of its config: arithmetic, no files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/job_gres.h"
#include "cli/site_config.h"

namespace softmig::cli {

struct NodeGpu {
  int minor = 0;  // N of /dev/nvidiaN
  std::string uuid;
  std::string name;
  uint64_t total = 0;  // bytes
};

// One slice: so many of the shards of a GPU.
struct GpuSlice {
  std::string uuid;
  uint64_t shards = 0, of = 0;
  uint64_t bytes = 0;    // memory limit
  uint64_t percent = 0;  // share of GPU time, 100: all
};

// The slices of the shards in `items`, none if there are no shards. `order` has the minor numbers
// of the node's GPUs in Slurm's order, or is empty if that is not known; then they are taken as
// sorted, which is only done where all GPUs are alike. Throws Failure.
std::vector<GpuSlice> plan_slices(const std::vector<GresItem>& items, const std::vector<int>& order,
                                  const std::vector<NodeGpu>& gpus, const SiteConfig& site);

// The config of a job with these slices. `slots` is the value of SOFTMIG_SLOTS or empty.
std::string config_text(const std::vector<GpuSlice>& slices, uint32_t uid, const std::string& slots,
                        const SiteConfig& site);

// A config that lets the job allocate nothing and says why.
std::string closed_config_text(uint32_t uid, const std::string& why);

}  // namespace softmig::cli
