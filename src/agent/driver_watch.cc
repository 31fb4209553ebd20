#include "agent/driver_watch.h"

#include <algorithm>
#include <map>
#include <thread>
#include <utility>

#include "sys/clock.h"

namespace softmig::agent {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kReopenNs = 2 * kSecond;
// A device that told nothing so often in a row: the driver may be another one by now.
constexpr int kMostFailures = 3;

}  // namespace

// Shared with the thread, which outlives the watch if the driver hangs.
struct DriverWatch::Work {
  std::string library;

  std::mutex mutex;
  std::condition_variable changed;
  bool stop = false, asked = false, answered = false, with_busy = false;
  std::vector<LimitRequest> limits;
  DriverLook result;

  // The thread's own.
  std::unique_ptr<host::Nvml> nvml;
  std::string trouble;
  uint64_t tried_ns = 0;
  int failures = 0;
  struct Since {
    uint64_t realtime_us = 0, monotonic_ns = 0;
  };
  std::map<uint64_t, Since> since;  // by device

  void run();
  DriverLook take(bool busy, std::vector<LimitRequest> wanted);
  DeviceLook take_device(const host::NvmlDevice& device, bool busy);
  void take_busy(const host::NvmlDevice& device, DeviceLook* look);
  void close();
};

void DriverWatch::Work::close() {
  nvml.reset();
  since.clear();
  failures = 0;
}

void DriverWatch::Work::take_busy(const host::NvmlDevice& device, DeviceLook* look) {
  const Since now = {sys::realtime_ns() / 1000, sys::monotonic_ns()};
  Since& before = since[device.key];
  const auto list = nvml->process_busy(device.handle, before.realtime_us);
  if (list && before.monotonic_ns != 0) {
    look->sample_ns = now.monotonic_ns - before.monotonic_ns;
    look->busy_processes = *list;
  }
  before = list ? now : Since();
}

DeviceLook DriverWatch::Work::take_device(const host::NvmlDevice& device, bool busy) {
  DeviceLook look;
  look.key = device.key;
  look.index = device.index;
  look.name = device.name;
  look.uuid = device.uuid_text;
  if (const auto memory = nvml->memory(device.handle)) {
    look.memory = memory->total;
    look.used = memory->used;
  }
  look.busy = nvml->busy(device.handle);
  if (auto processes = nvml->all_processes(device.handle)) {
    look.listed = true;
    look.processes = std::move(*processes);
  }
  if (busy && look.listed) take_busy(device, &look);
  return look;
}

DriverLook DriverWatch::Work::take(bool busy, std::vector<LimitRequest> wanted) {
  DriverLook look;
  look.taken_ns = sys::monotonic_ns();
  if (nvml == nullptr && look.taken_ns - tried_ns > kReopenNs) {
    tried_ns = look.taken_ns;
    nvml = host::Nvml::open(&trouble, library);
  }
  look.trouble = trouble;
  if (nvml == nullptr) return look;
  look.driver = nvml->driver_version();
  look.can_limit = nvml->can_limit_cgroups();
  bool listed = false;
  for (const host::NvmlDevice& device : nvml->devices()) {
    look.devices.push_back(take_device(device, busy));
    listed = listed || look.devices.back().listed;
  }
  for (LimitRequest& limit : wanted) {
    const host::NvmlDevice* device = nvml->device_with_key(limit.device_key);
    limit.answer = device != nullptr ? nvml->limit_cgroup(device->handle, limit.cgroup, limit.bytes)
                                     : NVML_ERROR_NOT_FOUND;
  }
  look.limits = std::move(wanted);
  failures = listed ? 0 : failures + 1;
  if (failures >= kMostFailures) close();
  if (!listed) look.trouble = "NVML lists no processes on any GPU";
  return look;
}

void DriverWatch::Work::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [this] { return stop || (asked && !answered); });
    if (stop) return;
    const bool busy = with_busy;
    std::vector<LimitRequest> wanted = std::move(limits);
    lock.unlock();
    DriverLook look = take(busy, std::move(wanted));
    lock.lock();
    result = std::move(look);
    answered = true;
    changed.notify_all();
  }
}

DriverWatch::DriverWatch(std::string library) : work_(std::make_shared<Work>()) {
  work_->library = std::move(library);
  std::thread([work = work_] { work->run(); }).detach();
}

DriverWatch::~DriverWatch() {
  const std::lock_guard lock(work_->mutex);
  work_->stop = true;
  work_->changed.notify_all();
}

std::optional<DriverLook> DriverWatch::look(bool with_busy, std::vector<LimitRequest> limits,
                                            std::chrono::milliseconds patience) {
  const uint64_t begun = sys::monotonic_ns();
  std::unique_lock lock(work_->mutex);
  // What it says to an old question is of no use, but it must have been said.
  const auto answered = [this] { return work_->answered; };
  if (work_->asked && !work_->changed.wait_for(lock, patience, answered)) return std::nullopt;
  work_->asked = true;
  work_->answered = false;
  work_->with_busy = with_busy;
  work_->limits = std::move(limits);
  work_->changed.notify_all();
  if (!work_->changed.wait_for(lock, patience, answered)) return std::nullopt;
  work_->asked = false;
  DriverLook look = std::move(work_->result);
  return look.taken_ns >= begun ? std::optional(std::move(look)) : std::nullopt;
}

}  // namespace softmig::agent
