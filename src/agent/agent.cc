#include "agent/agent.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "agent/log.h"
#include "host/text.h"
#include "job/cgroup.h"
#include "job/extra.h"
#include "job/region.h"
#include "sys/clock.h"
#include "sys/files.h"
#include "sys/proc.h"
#include "sys/publish.h"

namespace softmig::agent {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kSecond = 1000 * kMs;
constexpr uint64_t kIntervalNs = kSecond;
// Two looks make a verdict: the second follows soon.
constexpr uint64_t kAgainNs = 250 * kMs;
// NVML samples a process's GPU time every 200 ms, and the question costs 1.4 ms.
constexpr uint64_t kBusyNs = 2 * kSecond;
constexpr auto kPatience = std::chrono::milliseconds(1500);
constexpr uint64_t kAccountsNs = 5 * kSecond;
constexpr int kAccountTries = 12;
constexpr uint64_t kMostRegion = 4 * abi::kRegionSize;  // of a layout that is not ours
constexpr uint64_t kLivingNs = 2 * kSecond;
constexpr size_t kMostAccount = 64;
constexpr size_t kMostVerdicts = 1024;

// Processes of /proc, by number.
template <typename Function>
void for_each_process(const std::string& proc, Function&& function) {
  std::error_code ended;
  fs::directory_iterator entry(proc, ended);
  for (; !ended && entry != fs::directory_iterator(); entry.increment(ended)) {
    const std::string name = entry->path().filename();
    uint32_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc() && end == name.data() + name.size()) function(pid);
  }
}

// A foreign process may lie about its slot; the one that is meant is told by all that the slot
// says.
bool is_slot_of(const job::ViewedProcess& slot, const ProcessFacts& who, uint64_t time_namespace) {
  if (slot.pid != (who.inner_pid & abi::kPidMask) || slot.pid_namespace != who.pid_namespace) {
    return false;
  }
  const bool comparable = slot.time_namespace == time_namespace && slot.start_ticks != 0;
  if (comparable && slot.start_ticks != (who.start_ticks & abi::kStartMask)) return false;
  // After execve the slot is the old program's.
  return slot.image == 0 || who.image == 0 || slot.image == who.image;
}

// A process took or gave back memory of this device between the two looks: what the driver said in
// between may have been true. A charge carries a number that every change makes another one.
bool moved(const host::RegionLook& before, const host::RegionLook& after, uint64_t device_key) {
  const int index = after.index_of(device_key);
  if (index < 0 || before.index_of(device_key) != index) return true;
  return before.view.device[index].fingerprint != after.view.device[index].fingerprint;
}

// Of containers' processes, which are looked at when they have died.
constexpr uint32_t kMostForeign = 1024;

bool is_wanted(const void* pids, uint32_t pid) {
  return static_cast<const std::set<uint32_t>*>(pids)->contains(pid);
}

}  // namespace

Agent::Agent(AgentOptions options)
    : options_(std::move(options)),
      proc_(options_.places.proc),
      jobs_(options_.places),
      processes_(proc_, options_.devices,
                 [this](uint64_t job, uint32_t uid) { return jobs_.is_of(job, uid); }),
      driver_(options_.nvml),
      enforcer_(proc_, options_.places.log_dir,
                [this](uint64_t job, uint32_t uid) { return jobs_.is_of(job, uid); }),
      slots_(proc_),
      verdicts_(kMostVerdicts) {
  last_.version = options_.version;
  read_site();
}

// A file that is wrong leaves what was right before.
void Agent::read_site() {
  sys::FileStatus status;
  if (!sys::status_at(sys::kCurrentDirectory, options_.site_config.c_str(), &status)) status = {};
  const uint64_t stamp[3] = {status.inode, status.size, status.ctime_ns};
  if (std::equal(std::begin(stamp), std::end(stamp), site_stamp_)) return;
  std::copy(std::begin(stamp), std::end(stamp), site_stamp_);
  std::vector<host::SiteProblem> problems;
  host::SiteConfig fresh = host::read_site_config(options_.site_config, &problems);
  bool usable = true;
  for (const host::SiteProblem& problem : problems) {
    usable = usable && problem.warning;
    say(problem.warning ? Weight::kWarning : Weight::kError, problem.text);
  }
  if (usable) site_ = std::move(fresh);
}

void Agent::read_ledgers(host::RegionLook Ledger::*which) {
  for (const auto& [id, job] : jobs_.jobs()) {
    // The user may have filled it with processes that do not exist.
    ledgers_[id].*which = host::look_at_region(jobs_.region_path(id), nullptr,
                                               {is_wanted, &inner_pids_, kMostForeign});
  }
}

// A region is its user's file, and /run is everybody's.
void Agent::cut_regions() {
  for (const auto& [id, ledger] : ledgers_) {
    const std::string path = jobs_.region_path(id);
    const uint64_t most = ledger.known() ? abi::kRegionSize : kMostRegion;
    sys::FileStatus status;
    if (!sys::status_at(sys::kCurrentDirectory, path.c_str(), &status) || !status.is_regular() ||
        status.size <= most || truncate(path.c_str(), static_cast<off_t>(most)) != 0) {
      continue;
    }
    if (!cut_.insert(id).second) continue;
    say(Weight::kWarning,
        fmt::format("job {}: its region was made {} MiB large by uid {}, the rest is cut off", id,
                    status.size >> 20, status.uid));
  }
  std::erase_if(cut_, [this](uint64_t id) { return jobs_.find(id) == nullptr; });
}

void Agent::enter_charge(const ProcessFacts& who, uint64_t device_key,
                         policy::GpuProcess* process) {
  static const uint64_t time_namespace = sys::time_namespace();
  const auto ledger = ledgers_.find(who.job);
  if (ledger == ledgers_.end() || !ledger->second.known()) return;
  // Before or after: a process may have come or gone while the driver was asked.
  for (const host::RegionLook* look : {&ledger->second.after, &ledger->second.before}) {
    const int index = look->index_of(device_key);
    for (const job::ViewedProcess& slot : look->processes) {
      if (!is_slot_of(slot, who, time_namespace)) continue;
      process->in_ledger = true;
      if (index < 0) continue;
      process->charged = std::max(process->charged, slot.bytes[index]);
      process->ahead = std::max(process->ahead, slot.ahead_bytes[index]);
    }
  }
}

void Agent::add_processes(const DeviceLook& device, uint32_t index, uint64_t now_ns, Facts* facts) {
  for (const host::NvmlProcess& listed : device.processes) {
    const ProcessFacts& who = processes_.look(listed.pid, now_ns);
    inner_pids_.insert(who.inner_pid & abi::kPidMask);
    policy::GpuProcess process;
    process.pid = listed.pid;
    process.uid = who.root ? 0 : who.uid;
    process.start_ticks = who.start_ticks;
    process.job = who.job;
    process.device = index;
    process.alive = who.alive;
    process.job_ended = jobs_.has_ended(who.job);
    process.no_config = who.job != 0 && jobs_.find(who.job) == nullptr;
    process.bytes_known = listed.known;
    process.bytes = listed.bytes;
    for (const host::NvmlBusy& busy : device.busy_processes) {
      if (busy.pid == listed.pid) process.busy_ns += device.sample_ns / 100 * busy.percent;
    }
    facts->processes.push_back(process);
  }
}

void Agent::add_slices(const DeviceLook& device, uint32_t index, Facts* facts) {
  for (const auto& [id, job] : jobs_.jobs()) {
    if (!job.sliced()) continue;
    bool named = false;
    const int place = job.place_of(device.key, &named);
    // Without a list the job may use what it finds.
    if (!named && job.settings.gpu_count != 0) continue;
    facts->devices[index].sliced = facts->devices[index].sliced || named;
    policy::SliceOfGpu slice;
    slice.job = id;
    slice.device = index;
    slice.memory_limit = policy::memory_limit(job.settings, place);
    if (device.memory != 0) slice.memory_limit = std::min(slice.memory_limit, device.memory);
    slice.sm_limit = policy::sm_limit(job.settings, place);
    const Ledger& ledger = ledgers_[id];
    slice.ledger_known = ledger.known();
    // Root made it whole: what is no region any more was spoilt. (What cannot be opened, say for
    // want of descriptors, is not the job's fault.)
    slice.ledger_broken = ledger.after.status == job::ViewStatus::kForeign;
    slice.ledger_moving = moved(ledger.before, ledger.after, device.key);
    for (const host::RegionLook* look : {&ledger.before, &ledger.after}) {
      const int at = look->index_of(device.key);
      if (at >= 0) slice.charged = std::max(slice.charged, look->view.device[at].used);
    }
    facts->slices.push_back(slice);
  }
}

// Asked only where it matters, since it means to look at all of /proc.
void Agent::find_deserted(const DriverLook& driver, uint64_t now_ns, Facts* facts) {
  for (uint32_t i = 0; i < facts->devices.size(); i++) {
    const auto matters = [&](const policy::GpuProcess& process) {
      return process.device == i && process.no_config && !process.job_ended;
    };
    if (!facts->devices[i].sliced ||
        std::none_of(facts->processes.begin(), facts->processes.end(), matters)) {
      continue;
    }
    find_living_jobs(now_ns);
    facts->devices[i].deserted =
        std::none_of(jobs_.jobs().begin(), jobs_.jobs().end(), [&](const auto& item) {
          bool named = false;
          item.second.place_of(driver.devices[i].key, &named);
          return named && item.second.sliced() && living_jobs_.contains(item.first);
        });
  }
}

void Agent::find_living_jobs(uint64_t now_ns) {
  if (living_ns_ != 0 && now_ns - living_ns_ < kLivingNs) return;
  living_ns_ = now_ns;
  living_jobs_.clear();
  for_each_process(proc_, [this](uint32_t pid) {
    living_jobs_.insert(job::job_of_process(proc_.c_str(), pid));
  });
}

Agent::Facts Agent::gather(const DriverLook& driver, uint64_t now_ns) {
  Facts facts;
  inner_pids_.clear();
  for (const DeviceLook& device : driver.devices) {
    const auto index = static_cast<uint32_t>(facts.devices.size());
    facts.devices.push_back({device.listed, false, device.sample_ns});
    facts.names.push_back(fmt::format("GPU {}", device.index));
    add_processes(device, index, now_ns, &facts);
  }
  // Which slots matter is known now.
  read_ledgers(&Ledger::after);
  for (policy::GpuProcess& process : facts.processes) {
    enter_charge(*processes_.find(process.pid), driver.devices[process.device].key, &process);
  }
  for (uint32_t i = 0; i < driver.devices.size(); i++) add_slices(driver.devices[i], i, &facts);
  find_deserted(driver, now_ns, &facts);
  processes_.sweep();
  return facts;
}

// What the library takes off the limit (design: memory, the extra page).
void Agent::publish_extra(const DriverLook& driver, const Facts& facts) {
  int failed = 0;
  for (const auto& [id, ledger] : ledgers_) {
    const NodeJob* job = jobs_.find(id);
    if (job == nullptr || !job->sliced() || !ledger.known()) continue;
    abi::ExtraPage page = {};
    Extra& extra = extras_[id];
    for (size_t i = 0; i < driver.devices.size() && page.device_count < abi::kMaxDevices; i++) {
      const DeviceLook& device = driver.devices[i];
      const int at = ledger.after.index_of(device.key);
      if (at < 0 || !device.listed) continue;
      const uint64_t exported =
          std::max(ledger.after.view.device[at].exported, ledger.before.view.device[at].exported);
      const policy::BeyondLook look =
          policy::look_beyond(facts.processes, id, static_cast<uint32_t>(i), exported);
      page.device[page.device_count++] = {device.key, extra.beyond[at].note(look)};
    }
    if (page.device_count == 0) continue;
    const int error = job::write_extra_page(jobs_.region_path(id).c_str(), &page);
    if (error != 0) failed = error;
  }
  note_extra(failed);
  std::erase_if(extras_, [this](const auto& item) { return jobs_.find(item.first) == nullptr; });
}

void Agent::kill_on_refusals(const DriverLook& driver, const Facts& facts) {
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> now;
  for (const auto& [id, ledger] : ledgers_) {
    const NodeJob* job = jobs_.find(id);
    for (uint32_t i = 0; job != nullptr && i < driver.devices.size(); i++) {
      const std::pair<uint64_t, uint64_t> place = {id, driver.devices[i].key};
      const auto before = refusals_.find(place);
      if (!ledger.known()) {
        if (before != refusals_.end()) now.insert(*before);
        continue;
      }
      // Of a device that enters the region later the count begins at 0.
      const int at = ledger.after.index_of(place.second);
      const uint64_t refusals = at < 0 ? 0 : ledger.after.view.device[at].refusals;
      now[place] = refusals;
      const bool refused = before != refusals_.end() && refusals > before->second;
      // Of the job's user alone, and never root's.
      if (refused && job->sliced() && job->settings.oom_killer && job->settings.uid_set) {
        enforcer_.out_of_memory(id, job->settings.uid, i, facts.processes);
      }
    }
  }
  refusals_ = std::move(now);
}

void Agent::reclaim(uint64_t now_ns) {
  for (const auto& [id, ledger] : ledgers_) {
    if (!ledger.known()) continue;
    const std::string path = jobs_.region_path(id);
    const std::vector<DeadSlot> dead = slots_.dead(path, ledger.after, now_ns);
    if (dead.empty()) continue;
    const int child = reclaim_slots(path, dead);
    if (child != 0) children_[child] = now_ns;
    last_.reclaimed += dead.size();
    say(Weight::kNotice, fmt::format("job {}: gave back what {} dead processes of containers held",
                                     id, dead.size()));
  }
  for (auto child = children_.begin(); child != children_.end();) {
    if (now_ns - child->second > 5 * kSecond) ::kill(child->first, SIGKILL);
    child =
        waitpid(child->first, nullptr, WNOHANG) == 0 ? std::next(child) : children_.erase(child);
  }
}

void Agent::limit_by_driver(const DriverLook& driver, uint64_t now_ns) {
  if (!backend_chosen_) {
    backend_chosen_ = true;
    struct stat status = {};
    const bool second = stat((options_.cgroups + "/cgroup.controllers").c_str(), &status) == 0;
    if (driver.can_limit && second) backend_ = make_driver_backend(options_.cgroups);
    say(Weight::kNotice, fmt::format("memory limits: {}", backend_->name()));
  }
  backend_->answered(driver.limits, now_ns);
  std::vector<JobLimit> limits;
  for (const auto& [id, job] : jobs_.jobs()) {
    if (!job.sliced()) continue;
    for (int i = 0; i < job.settings.gpu_count; i++) {
      const uint64_t bytes = policy::memory_limit(job.settings, i);
      if (bytes != 0) limits.push_back({id, job::device_key(job.settings.gpu[i]), bytes});
    }
  }
  limits_ = backend_->wanted(limits, now_ns);
}

// From the environment of any process of the job's user: a name for a label, no more.
void Agent::find_accounts(uint64_t now_ns) {
  std::erase_if(accounts_, [this](const auto& item) { return jobs_.find(item.first) == nullptr; });
  bool open = false;
  for (const auto& [id, job] : jobs_.jobs()) {
    const Account& account = accounts_[id];
    open = open || (account.name.empty() && account.tries < kAccountTries);
  }
  if (!open || now_ns - accounts_ns_ < kAccountsNs) return;
  accounts_ns_ = now_ns;
  for (auto& [id, account] : accounts_) account.tries++;
  for_each_process(proc_, [this](uint32_t pid) {
    const uint64_t id = job::job_of_process(proc_.c_str(), pid);
    const auto account = accounts_.find(id);
    if (account == accounts_.end() || !account->second.name.empty()) return;
    const NodeJob* job = jobs_.find(id);
    struct stat status = {};
    const bool its = stat(fmt::format("{}/{}", proc_, pid).c_str(), &status) == 0 &&
                     job->settings.uid_set && status.st_uid == job->settings.uid;
    if (!its) return;
    const std::string name = process_variable(proc_, pid, "SLURM_JOB_ACCOUNT");
    account->second.name = host::printable(name.substr(0, kMostAccount));
  });
}

// Normally the prolog does; before the first job, or where it is not ours, the agent.
void Agent::record_cgroup_namespace(uint64_t now_ns) {
  const std::string path = fmt::format("{}/cgroup_ns", options_.places.run_dir);
  if (namespace_done_ || (namespace_ns_ != 0 && now_ns - namespace_ns_ < 60 * kSecond)) return;
  namespace_ns_ = now_ns;
  if (sys::exists(path.c_str())) {
    namespace_done_ = true;
    return;
  }
  struct stat own = {};
  if (stat((proc_ + "/self/ns/cgroup").c_str(), &own) != 0) return;
  for_each_process(proc_, [&](uint32_t pid) {
    const std::string folder = fmt::format("{}/{}", proc_, pid);
    std::ifstream comm(folder + "/comm");
    std::string name;
    std::getline(comm, name);
    struct stat owner = {}, space = {};
    if (name != "slurmd" || stat(folder.c_str(), &owner) != 0 || owner.st_uid != 0) return;
    if (stat((folder + "/ns/cgroup").c_str(), &space) != 0) return;
    // That of a container would make all jobs of the node look hidden.
    if (space.st_ino != own.st_ino) return;
    const std::string text = fmt::format("{}\n", space.st_ino);
    namespace_done_ = sys::publish_file(path.c_str(), text.data(), text.size(), 0644) == 0;
  });
}

JobRow Agent::job_row(const NodeJob& job, const DeviceLook& device, uint32_t index,
                      const Facts& facts) {
  JobRow row;
  row.user = job.settings.uid_set ? names_.user(job.settings.uid) : "";
  row.account = accounts_[job.id].name;
  row.job = std::to_string(job.id);
  row.gpu = std::to_string(device.index);
  row.gpu_type = device.name;
  row.total = device.memory;
  for (const policy::SliceOfGpu& slice : facts.slices) {
    if (slice.job != job.id || slice.device != index) continue;
    row.limit = slice.memory_limit;
    row.share = slice.sm_limit;
    if (slice.memory_limit != 0) row.total = slice.memory_limit;
  }
  for (const policy::GpuProcess& process : facts.processes) {
    if (process.job != job.id || process.device != index) continue;
    row.processes++;
    row.usage += process.bytes;
  }
  const auto busy = busy_.find({job.id, index});
  if (busy != busy_.end()) {
    row.utilization = busy->second.first;
    row.memory_utilization = busy->second.second;
  }
  const Ledger& ledger = ledgers_[job.id];
  const int at = ledger.after.index_of(device.key);
  row.has_ledger = ledger.known();
  if (at < 0) return row;
  const job::ViewedDevice& view = ledger.after.view.device[at];
  row.ledger = view.used;
  row.peak = view.peak;
  row.refusals = view.refusals;
  row.gpu_ns = view.gpu_ns;
  row.waited_ns = view.waited_ns;
  row.launches = view.launches + view.graph_launches;
  row.unaccounted =
      policy::beyond_ledger(policy::look_beyond(facts.processes, job.id, index, view.exported));
  return row;
}

// Of each job on a device, by the newest sample.
void Agent::add_busy(const DeviceLook& device, uint32_t index, const Facts& facts) {
  std::erase_if(busy_, [&](const auto& item) { return item.first.second == index; });
  for (const policy::GpuProcess& process : facts.processes) {
    if (process.device != index || process.job == 0) continue;
    auto& [percent, memory_percent] = busy_[{process.job, index}];
    for (const host::NvmlBusy& sample : device.busy_processes) {
      if (sample.pid != process.pid) continue;
      percent = std::min(percent + sample.percent, 100.0);
      memory_percent = std::min(memory_percent + sample.memory_percent, 100.0);
    }
  }
}

void Agent::fill_rows(const DriverLook& driver, const Facts& facts, Snapshot* snapshot) {
  for (uint32_t i = 0; i < driver.devices.size(); i++) {
    const DeviceLook& device = driver.devices[i];
    GpuRow gpu;
    gpu.gpu = std::to_string(device.index);
    gpu.gpu_type = device.name;
    gpu.uuid = device.uuid;
    gpu.memory = device.memory;
    gpu.used = device.used;
    gpu.busy = device.busy;
    gpu.processes = device.processes.size();
    if (device.sample_ns != 0) add_busy(device, i, facts);
    for (const auto& [id, job] : jobs_.jobs()) {
      bool named = false;
      job.place_of(device.key, &named);
      const auto uses = [&, id = id](const policy::GpuProcess& process) {
        return process.job == id && process.device == i;
      };
      if (!named && std::none_of(facts.processes.begin(), facts.processes.end(), uses)) continue;
      gpu.jobs++;
      snapshot->jobs.push_back(job_row(job, device, i, facts));
      for (const policy::Verdict& verdict : verdicts_) {
        if (verdict.id == 0 || verdict.job != id || verdict.device != i) continue;
        auto& kinds = snapshot->jobs.back().verdicts;
        if (std::find(kinds.begin(), kinds.end(), verdict.kind) == kinds.end()) {
          kinds.push_back(verdict.kind);
        }
      }
    }
    snapshot->gpus.push_back(std::move(gpu));
  }
}

void Agent::note_configs() {
  const std::string trouble = jobs_.jobs().empty() ? "" : jobs_.trouble();
  if (trouble == configs_trouble_) return;
  configs_trouble_ = trouble;
  if (trouble.empty()) {
    say(Weight::kNotice, "the configs of jobs can be read again");
  } else {
    say(Weight::kError,
        fmt::format("the configs of jobs cannot be read and are taken to be as they were: {}",
                    trouble));
  }
}

// Of the last page that could not be written; 0: all were.
void Agent::note_extra(int error) {
  if (error == extra_error_) return;
  extra_error_ = error;
  if (error == 0) {
    say(Weight::kNotice, "jobs are told again what they hold beyond their ledgers");
  } else {
    say(Weight::kError, fmt::format("jobs are not told what they hold beyond their ledgers: {}",
                                    std::strerror(error)));
  }
}

void Agent::note_driver(const std::optional<DriverLook>& driver) {
  const bool was_up = last_.looks == 0 || last_.driver_up;
  last_.driver_up = driver && driver->trouble.empty();
  if (!last_.driver_up) last_.driver_failures++;
  if (last_.driver_up == was_up) return;
  if (last_.driver_up) {
    say(Weight::kNotice, "the driver answers again");
  } else {
    say(Weight::kError, driver ? driver->trouble : "the driver does not answer");
  }
}

void Agent::forget_ledgers() {
  std::erase_if(ledgers_, [this](const auto& item) {
    const bool gone = jobs_.find(item.first) == nullptr;
    if (gone) slots_.forget(jobs_.region_path(item.first));
    return gone;
  });
}

bool Agent::judge(const DriverLook& driver, uint64_t now_ns) {
  last_.driver = driver.driver;
  limit_by_driver(driver, now_ns);
  const Facts facts = gather(driver, now_ns);
  std::fill(verdicts_.begin(), verdicts_.end(), policy::Verdict());
  const int count = judge_->look(now_ns, facts.processes, facts.slices, facts.devices,
                                 site_.tolerance, verdicts_);
  enforcer_.act(now_ns, std::span(verdicts_).first(static_cast<size_t>(count)), facts.processes,
                site_, facts.names);
  kill_on_refusals(driver, facts);
  publish_extra(driver, facts);
  fill_rows(driver, facts, &last_);
  return !judge_->undecided();
}

uint64_t Agent::look() {
  const uint64_t begun = sys::monotonic_ns();
  read_site();
  record_cgroup_namespace(begun);
  jobs_.refresh(begun);
  note_configs();
  forget_ledgers();
  find_accounts(begun);
  read_ledgers(&Ledger::before);
  const bool with_busy = begun - busy_ns_ >= kBusyNs - kAgainNs;
  std::optional<DriverLook> driver = driver_.look(with_busy, limits_, kPatience);
  if (driver && with_busy) busy_ns_ = begun;
  limits_.clear();

  last_.jobs.clear();
  last_.gpus.clear();
  note_driver(driver);
  const uint64_t now = sys::monotonic_ns();
  bool decided = true;
  if (last_.driver_up) {
    decided = judge(*driver, now);
  } else {
    read_ledgers(&Ledger::after);
  }
  cut_regions();
  reclaim(now);
  enforcer_.reap(now);
  const uint64_t ended = sys::monotonic_ns();
  last_.counts = enforcer_.counts();
  last_.looks++;
  last_.look_seconds = static_cast<double>(ended - begun) / kSecond;
  last_.last_look = static_cast<double>(sys::realtime_ns()) / kSecond;
  last_.memory_backend = backend_->name();
  board_->put(last_);
  const uint64_t next = decided ? kIntervalNs : kAgainNs;
  return next > ended - begun ? next - (ended - begun) : kMs;
}

}  // namespace softmig::agent
