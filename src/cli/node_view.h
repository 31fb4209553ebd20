// This node's GPUs and slices, as far as the caller may see them: jobs with a config in
// /var/run/softmig, and slices of `softmig run` that some process lives in. Root sees all, anybody
// else his own. Nothing is mapped, locked or changed.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/nvml.h"
#include "cli/region_look.h"
#include "host/job_config.h"
#include "job/config.h"
#include "policy/settings.h"

namespace softmig::cli {

struct SeenGpu {
  int index = -1;  // as nvidia-smi numbers
  std::string name, uuid;
  uint64_t key = 0;
  uint64_t memory = 0, used = 0;  // bytes of the whole card; 0: the driver does not tell
  std::optional<unsigned> busy;   // percent, of the whole card and by the driver's own figure
};

struct SeenProcess {
  uint32_t pid = 0, uid = 0;
  bool foreign = false;  // in another pid namespace
  uint64_t bytes = 0, context_bytes = 0;
  job::ViewedCompute compute;
};

// One slice on one GPU.
struct SeenDevice {
  int index = -1;          // -1: no GPU that the driver shows here
  std::string name, uuid;  // empty: not known
  uint64_t key = 0;        // 0: no process has used a GPU, and the config names none
  uint64_t card = 0;       // bytes of the whole card, 0: not known
  uint64_t memory_limit = 0, sm_limit = 0;  // bytes, percent; 0: none
  uint64_t used = 0, beyond_ledger = 0, peak = 0, refusals = 0;
  job::ViewedCompute compute;  // counted only where there is a limit of GPU time
  std::vector<SeenProcess> processes;
};

struct SeenSlice {
  std::string name;     // "4711", "4711_3", "run.aINzJo"
  uint64_t job_id = 0;  // 0: of `softmig run`
  std::optional<uint32_t> uid;
  std::string error;  // the config cannot be used, and why: nothing can be allocated
  std::string config, region;
  job::ViewStatus region_status = job::ViewStatus::kMissing;
  uint64_t created_ns = 0;  // CLOCK_REALTIME; 0: not known
  std::string slots;        // "0,2/4", empty: none
  std::vector<SeenDevice> devices;
};

struct NodeView {
  std::string node, driver;  // the driver's version, empty: no driver
  std::string trouble;       // why there are no GPUs
  uint64_t taken_ns = 0;     // CLOCK_MONOTONIC
  std::vector<SeenGpu> gpus;
  std::vector<SeenSlice> slices;
};

// Keeps the driver open, for whoever looks again and again.
class NodeWatch {
 public:
  explicit NodeWatch(job::Places places = {});
  NodeView look() const;

 private:
  job::Places places_;
  std::string trouble_;
  std::unique_ptr<Nvml> nvml_;
};

// The slice of a config and a region of the caller's choice; `gpus` names its devices.
SeenSlice make_slice(const policy::Settings& settings, const std::string& region,
                     const std::vector<SeenGpu>& gpus);

using host::job_of_config_name;
using host::read_job_config;

std::string host_name();

// Sizes are bytes, times ns; null means none or not known.
nlohmann::ordered_json to_json(const NodeView& view);
nlohmann::ordered_json to_json(const SeenSlice& slice);

}  // namespace softmig::cli
