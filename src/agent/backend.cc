#include "agent/backend.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "agent/log.h"

namespace softmig::agent {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kAgainNs = 60'000'000'000;

class LibraryBackend : public MemoryBackend {
 public:
  const char* name() const override { return "library"; }
  std::vector<LimitRequest> wanted(const std::vector<JobLimit>&, uint64_t) override { return {}; }
  void answered(const std::vector<LimitRequest>&, uint64_t) override {}
};

// Never takes a limit back: it goes with the job's cgroup.
class DriverBackend : public MemoryBackend {
 public:
  explicit DriverBackend(std::string cgroups) : cgroups_(std::move(cgroups)) {}
  const char* name() const override { return "driver"; }

  std::vector<LimitRequest> wanted(const std::vector<JobLimit>& limits, uint64_t now_ns) override {
    std::map<Place, Told> kept;
    std::vector<LimitRequest> requests;
    for (const JobLimit& limit : limits) {
      const Place place = {limit.job, limit.device_key};
      const auto known = told_.find(place);
      Told told = known != told_.end() ? known->second : Told();
      const bool done = told.accepted && told.bytes == limit.bytes;
      const bool wait = !told.accepted && told.bytes == limit.bytes && now_ns < told.again_ns;
      if (!done && !wait) {
        const std::string cgroup = job_cgroup(cgroups_, limit.job);
        if (!cgroup.empty()) requests.push_back({limit.job, limit.device_key, cgroup, limit.bytes});
      }
      kept[place] = told;
    }
    told_ = std::move(kept);
    return requests;
  }

  void answered(const std::vector<LimitRequest>& answers, uint64_t now_ns) override {
    for (const LimitRequest& answer : answers) {
      Told& told = told_[{answer.job, answer.device_key}];
      told = {answer.bytes, answer.answer == NVML_SUCCESS, now_ns + kAgainNs};
      if (!told.accepted) {
        say(Weight::kWarning,
            fmt::format("job {}: the driver refuses a memory limit for {} (NVML "
                        "error {}); the library's holds",
                        answer.job, answer.cgroup, static_cast<int>(answer.answer)));
      }
    }
  }

 private:
  using Place = std::pair<uint64_t, uint64_t>;  // job, device
  struct Told {
    uint64_t bytes = 0;
    bool accepted = false;
    uint64_t again_ns = 0;
  };
  std::string cgroups_;
  std::map<Place, Told> told_;
};

}  // namespace

// ".../system.slice/slurmstepd.scope/job_7", or "n1_slurmstepd.scope" with several slurmd.
std::string job_cgroup(const std::string& cgroups, uint64_t job) {
  std::error_code ended;
  fs::directory_iterator entry(cgroups + "/system.slice", ended);
  for (; !ended && entry != fs::directory_iterator(); entry.increment(ended)) {
    if (!entry->path().filename().string().ends_with("slurmstepd.scope")) continue;
    const fs::path path = entry->path() / fmt::format("job_{}", job);
    if (fs::is_directory(path, ended)) return path;
  }
  return {};
}

std::unique_ptr<MemoryBackend> make_library_backend() { return std::make_unique<LibraryBackend>(); }

std::unique_ptr<MemoryBackend> make_driver_backend(std::string cgroups) {
  return std::make_unique<DriverBackend>(std::move(cgroups));
}

}  // namespace softmig::agent
