// One look at the node a second: what the driver holds for whom, beside what the jobs' configs and
// ledgers say; verdicts, what follows from them, `{jobid}.region.extra`, and the metrics.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/backend.h"
#include "agent/driver_watch.h"
#include "agent/enforcer.h"
#include "agent/job_table.h"
#include "agent/metrics.h"
#include "agent/names.h"
#include "agent/process_table.h"
#include "agent/reclaim.h"
#include "host/site_config.h"
#include "policy/verdict.h"

namespace softmig::agent {

struct AgentOptions {
  job::Places places;
  std::string site_config = host::kSiteConfigFile;
  std::string nvml = "libnvidia-ml.so.1";
  std::string cgroups = "/sys/fs/cgroup";
  std::string devices = "/dev/nvidia";  // how the driver's device files begin
  std::string version;
};

class Agent {
 public:
  explicit Agent(AgentOptions options);
  // One look. Returns how long to wait until the next one, in ns: shorter after a suspicion.
  uint64_t look();
  std::shared_ptr<Board> board() const { return board_; }
  const host::SiteConfig& site() const { return site_; }

 private:
  // A job's region, and what was read from it before the driver was asked.
  struct Ledger {
    host::RegionLook before, after;
    bool known() const { return after.status == job::ViewStatus::kOk; }
  };
  struct Facts {
    std::vector<policy::JudgedDevice> devices;
    std::vector<std::string> names;
    std::vector<policy::GpuProcess> processes;
    std::vector<policy::SliceOfGpu> slices;
  };

  void read_site();
  void read_ledgers(host::RegionLook Ledger::*which);
  void forget_ledgers();  // of jobs that are over
  Facts gather(const DriverLook& driver, uint64_t now_ns);
  // What the driver said: verdicts and what follows, figures. False: something is suspected, and
  // the next look will tell.
  bool judge(const DriverLook& driver, uint64_t now_ns);
  void add_processes(const DeviceLook& device, uint32_t index, uint64_t now_ns, Facts* facts);
  void add_slices(const DeviceLook& device, uint32_t index, Facts* facts);
  void find_deserted(const DriverLook& driver, uint64_t now_ns, Facts* facts);
  void find_living_jobs(uint64_t now_ns);
  void cut_regions();
  void enter_charge(const ProcessFacts& who, uint64_t device_key, policy::GpuProcess* process);
  void publish_extra(const DriverLook& driver, const Facts& facts);
  void kill_on_refusals(const DriverLook& driver, const Facts& facts);
  void reclaim(uint64_t now_ns);
  void limit_by_driver(const DriverLook& driver, uint64_t now_ns);
  void find_accounts(uint64_t now_ns);
  void record_cgroup_namespace(uint64_t now_ns);
  void note_configs();
  void note_extra(int error);
  void note_driver(const std::optional<DriverLook>& driver);
  void add_busy(const DeviceLook& device, uint32_t index, const Facts& facts);
  void fill_rows(const DriverLook& driver, const Facts& facts, Snapshot* snapshot);
  JobRow job_row(const NodeJob& job, const DeviceLook& device, uint32_t index, const Facts& facts);

  AgentOptions options_;
  std::string proc_;
  host::SiteConfig site_;
  uint64_t site_stamp_[3] = {};
  std::unique_ptr<policy::Judge> judge_ = std::make_unique<policy::Judge>();
  JobTable jobs_;
  ProcessTable processes_;
  DriverWatch driver_;
  Enforcer enforcer_;
  SlotJudge slots_;
  Names names_;
  std::unique_ptr<MemoryBackend> backend_ = make_library_backend();
  bool backend_chosen_ = false;
  std::vector<LimitRequest> limits_;
  std::shared_ptr<Board> board_ = std::make_shared<Board>();

  std::map<uint64_t, Ledger> ledgers_;  // by job
  struct Extra {
    policy::Beyond beyond[abi::kMaxDevices];
  };
  std::map<uint64_t, Extra> extras_;
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> refusals_;  // by job and device
  struct Account {
    std::string name;
    int tries = 0;
  };
  std::map<uint64_t, Account> accounts_;
  std::map<int, uint64_t> children_;  // that reclaim slots
  std::vector<policy::Verdict> verdicts_;
  std::set<uint32_t> inner_pids_;   // of the GPU processes, each in its own pid namespace
  std::set<uint64_t> living_jobs_;  // that have a process, at living_ns_
  uint64_t living_ns_ = 0;
  std::set<uint64_t> cut_;       // jobs whose region was too large
  std::string configs_trouble_;  // as it was said
  int extra_error_ = 0;
  std::map<std::pair<uint64_t, uint32_t>, std::pair<double, double>> busy_;  // by job and device
  Snapshot last_;
  uint64_t busy_ns_ = 0, accounts_ns_ = 0, namespace_ns_ = 0;
  bool namespace_done_ = false;
};

}  // namespace softmig::agent
