#include "cli/sampler.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>
#include <utility>

#include "cli/slice_dir.h"
#include "job/extra.h"
#include "sys/proc.h"

namespace softmig::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr auto kRewrite = std::chrono::seconds(2);     // well within job::kExtraLifetimeNs
constexpr auto kMembership = std::chrono::seconds(2);  // an exec may change what a process is
constexpr auto kFarewell = std::chrono::milliseconds(500);
constexpr int kAttempts = 3;
constexpr int kMostAncestors = 64;
constexpr size_t kUsualProcesses = 64;
constexpr uint64_t kFirstPidNamespace = 0xEFFFFFFC;  // of the machine itself, fixed in the kernel

// 0 at the end of the line or when it is gone.
pid_t parent_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos || name_end + 4 >= line.size()) return 0;
  return static_cast<pid_t>(std::atoi(line.c_str() + name_end + 4));
}

bool descends_from(pid_t pid, pid_t ancestor) {
  for (int i = 0; i < kMostAncestors && pid > 1; i++) {
    if (pid == ancestor) return true;
    pid = parent_of(pid);
  }
  return false;
}

struct Look {
  job::RegionView region;
  std::vector<job::ViewedProcess> processes;
};

bool look_at(const std::string& path, Look* look) {
  for (size_t room = kUsualProcesses;; room *= 8) {
    look->processes.resize(room);
    if (job::view_region(path.c_str(), nullptr, &look->region, look->processes.data(),
                         static_cast<int>(room)) != job::ViewStatus::kOk) {
      return false;
    }
    if (!look->region.more || room > abi::kMaxSlots) break;
  }
  look->processes.resize(static_cast<size_t>(look->region.process_count));
  return true;
}

// Nothing was charged or given back on this device between the two looks.
bool same_on(const Look& before, const Look& after, int index) {
  if (before.processes.size() != after.processes.size()) return false;
  if (before.region.device[index].exported != after.region.device[index].exported) return false;
  for (size_t i = 0; i < before.processes.size(); i++) {
    if (before.processes[i].pid != after.processes[i].pid) return false;
    if (before.processes[i].charge[index] != after.processes[i].charge[index]) return false;
  }
  return true;
}

// In a pid namespace of its own, a container's, the driver may give the machine's pids, which are
// other processes here. It gives ours if it lists everyone of us who holds a context.
bool lists_our_pids(const std::vector<NvmlProcess>& list, const Look& look, int index) {
  return std::all_of(look.processes.begin(), look.processes.end(), [&](const auto& process) {
    return process.foreign || process.context_bytes[index] == 0 ||
           std::any_of(list.begin(), list.end(),
                       [&](const NvmlProcess& listed) { return listed.pid == process.pid; });
  });
}

}  // namespace

policy::BeyondLook look_beyond(const std::vector<DriverFigure>& driver,
                               const std::vector<job::ViewedProcess>& ledger,
                               const job::RegionView& region, int index) {
  policy::BeyondLook look;
  look.charged = region.device[index].exported;
  for (const DriverFigure& figure : driver) {
    look.held += figure.bytes;
    look.processes++;
    for (const job::ViewedProcess& process : ledger) {
      if (process.pid != figure.pid || process.foreign) continue;
      look.charged += process.bytes[index];
      look.ahead += process.ahead_bytes[index];
    }
  }
  return look;
}

// Shared with the thread, which outlives the Sampler if the driver hangs.
struct Sampler::Work {
  std::string region, mark;
  pid_t root = 0;
  std::unique_ptr<Nvml> nvml;

  std::mutex mutex;
  std::condition_variable changed;
  bool stop = false, stopped = false;

  struct Membership {
    bool member = false;
    Clock::time_point until;
  };
  std::map<uint32_t, Membership> members;
  policy::Beyond beyond[abi::kMaxDevices];
  abi::ExtraPage written = {};
  Clock::time_point written_at;

  bool is_member(uint32_t pid, const Look& look);
  std::optional<policy::BeyondLook> measure(const NvmlDevice& device, int index, Look* look);
  void sample();
  void publish(abi::ExtraPage page);
  void loop();
};

bool Sampler::Work::is_member(uint32_t pid, const Look& look) {
  for (const job::ViewedProcess& process : look.processes) {
    if (process.pid == pid && !process.foreign) return true;
  }
  Membership& known = members[pid];
  const auto now = Clock::now();
  if (now >= known.until) {
    const auto id = static_cast<pid_t>(pid);
    known = {descends_from(id, root) || environment_holds(id, mark), now + kMembership};
  }
  return known.member;
}

// None: the figures and the ledger could not be brought to agree on one moment.
std::optional<policy::BeyondLook> Sampler::Work::measure(const NvmlDevice& device, int index,
                                                         Look* look) {
  const bool contained = sys::pid_namespace() != kFirstPidNamespace;
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    const auto list = nvml->processes(device.handle);
    Look after;
    if (!list || !look_at(region, &after)) return std::nullopt;
    const bool agree = same_on(*look, after, index);
    *look = std::move(after);
    if (!agree) continue;
    if (contained && !lists_our_pids(*list, *look, index)) return std::nullopt;
    std::vector<DriverFigure> driver;
    for (const NvmlProcess& process : *list) {
      if (process.known && is_member(process.pid, *look)) {
        driver.push_back({process.pid, process.bytes});
      }
    }
    return look_beyond(driver, look->processes, look->region, index);
  }
  return std::nullopt;
}

void Sampler::Work::sample() {
  Look look;
  if (!look_at(region, &look)) return;
  abi::ExtraPage page = {};
  for (int i = 0; i < static_cast<int>(abi::kMaxDevices); i++) {
    const uint64_t key = look.region.device[i].key;
    const NvmlDevice* device = key != 0 ? nvml->device_with_key(key) : nullptr;
    if (device == nullptr) continue;
    const std::optional<policy::BeyondLook> now = measure(*device, i, &look);
    const uint64_t bytes = now ? beyond[i].note(*now) : written.device[page.device_count].bytes;
    page.device[page.device_count++] = {key, bytes};
  }
  publish(page);
}

void Sampler::Work::publish(abi::ExtraPage page) {
  if (page.device_count == 0) return;
  bool same = page.device_count == written.device_count;
  for (uint32_t i = 0; i < page.device_count; i++) {
    same = same && page.device[i].key == written.device[i].key &&
           page.device[i].bytes == written.device[i].bytes;
  }
  const auto now = Clock::now();
  if (same && now - written_at < kRewrite) return;
  if (job::write_extra_page(region.c_str(), &page) == 0) {
    written = page;
    written_at = now;
  }
}

void Sampler::Work::loop() {
  std::unique_lock lock(mutex);
  while (!changed.wait_for(lock, kInterval, [this] { return stop; })) {
    lock.unlock();
    sample();
    lock.lock();
  }
  stopped = true;
  changed.notify_all();
}

Sampler::Sampler(std::string region, pid_t root, std::string mark, std::unique_ptr<Nvml> nvml)
    : work_(std::make_shared<Work>()) {
  work_->region = std::move(region);
  work_->root = root;
  work_->mark = std::move(mark);
  work_->nvml = std::move(nvml);
  std::thread([work = work_] { work->loop(); }).detach();
}

Sampler::~Sampler() {
  std::unique_lock lock(work_->mutex);
  work_->stop = true;
  work_->changed.notify_all();
  work_->changed.wait_for(lock, kFarewell, [this] { return work_->stopped; });
}

}  // namespace softmig::cli
