// NVML: which processes use a device, how much of it, and how busy they keep it.
#include <algorithm>
#include <ctime>
#include <vector>

#include "nvml/library.h"
#include "state/activity.h"
#include "state/objects.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kSampleNs = 200'000'000;
constexpr uint64_t kHistoryNs = 5'000'000'000;
constexpr unsigned int kSampleCapacity = 100;  // what the sizing call asks for at least

struct Entry {
  unsigned int pid;
  uint64_t bytes;
  const ProcessRow* row;
};

// Processes with a context on the device, with what the driver lists for each.
std::vector<Entry> compute_processes(int device) {
  State& state = nvml_state();
  state.sweep(State::Care::kQuick);
  std::vector<Entry> entries;
  const uint32_t end = state.file().processes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    const ProcessRow& row = state.file().processes[i];
    if (row.state.load(std::memory_order_acquire) != RowState::kLive) continue;
    if (row.usage[device].contexts.load(std::memory_order_relaxed) == 0) continue;
    const uint64_t bytes = row.usage[device].listed.load(std::memory_order_relaxed) +
                           listed_object_bytes(state, i, device);
    const bool known = state.file().unknown == 0;
    entries.push_back({static_cast<unsigned int>(row.pid),
                       known ? bytes : static_cast<uint64_t>(NVML_VALUE_NOT_AVAILABLE), &row});
  }
  return entries;
}

void put(const Entry& entry, nvmlProcessInfo_v1_t* out) { *out = {entry.pid, entry.bytes}; }
void put(const Entry& entry, nvmlProcessInfo_v2_t* out) {
  *out = {entry.pid, entry.bytes, ~0u, ~0u};
}
void put(const Entry& entry, nvmlProcessDetail_v1_t* out) {
  *out = {entry.pid, entry.bytes, ~0u, ~0u, 0};
}

// The sizing contract: too small a list (also none at all) gets the number that is needed.
template <class T>
nvmlReturn_t fill(const std::vector<Entry>& entries, unsigned int* count, T* list) {
  const auto needed = static_cast<unsigned int>(entries.size());
  const bool fits = needed <= *count;
  *count = needed;
  if (!fits) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < needed; ++i) put(entries[i], &list[i]);
  return NVML_SUCCESS;
}

template <class T>
nvmlReturn_t list_compute(nvmlDevice_t device, unsigned int* count, T* list) {
  const int index = device_index(device);
  if (index < 0 || count == nullptr || (list == nullptr && *count != 0))
    return NVML_ERROR_INVALID_ARGUMENT;
  const State::Guard guard(&nvml_state());
  return fill(compute_processes(index), count, list);
}

// No simulated process draws, and there is no MPS server.
nvmlReturn_t list_none(nvmlDevice_t device, unsigned int* count, const void* list) {
  if (device_index(device) < 0 || count == nullptr || (list == nullptr && *count != 0))
    return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}

// --- utilisation: one sample each 200 ms

struct Busy {
  unsigned int pid;
  uint64_t when_us;  // of the newest sample, microseconds since 1970
  unsigned int percent;
};

uint64_t realtime_us() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

std::vector<Busy> busy_processes(int device, uint64_t since_us) {
  const uint64_t now = nvml_state().catch_up_figures(), end = now / kSampleNs * kSampleNs;
  const uint64_t end_us = realtime_us() - (now - end) / 1000;
  if (since_us >= end_us) return {};
  const uint64_t span = std::min<uint64_t>(
      kHistoryNs, std::max<uint64_t>(kSampleNs, end_us - since_us > kHistoryNs / 1000
                                                    ? kHistoryNs
                                                    : (end_us - since_us) * 1000));
  std::vector<Busy> busy;
  for (const Entry& entry : compute_processes(device)) {
    const uint64_t begin = end > span ? end - span : 0;
    const uint64_t ns = busy_within(entry.row->usage[device].activity, begin, end);
    if (ns == 0) continue;
    busy.push_back({entry.pid, end_us,
                    static_cast<unsigned int>(std::min<uint64_t>(100, ns * 100 / (end - begin)))});
  }
  return busy;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                  nvmlProcessInfo_v1_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_compute(device, count, list);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_v2_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_compute(device, count, list);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_compute(device, count, list);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                   nvmlProcessInfo_v1_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                      nvmlProcessInfo_v2_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                      nvmlProcessInfo_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_v1_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                        nvmlProcessInfo_v2_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                        nvmlProcessInfo_t* list) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : list_none(device, count, list);
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t* list) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || list == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (list->version != nvmlProcessDetailList_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (list->mode > 2 || (list->procArray == nullptr && list->numProcArrayEntries != 0))
    return NVML_ERROR_INVALID_ARGUMENT;
  const State::Guard guard(&nvml_state());
  const auto entries = list->mode == 0 ? compute_processes(index) : std::vector<Entry>();
  return fill(entries, &list->numProcArrayEntries, list->procArray);
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t* list,
                                             unsigned int* count, unsigned long long since) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (list == nullptr) {
    *count = kSampleCapacity;
    return NVML_ERROR_INSUFFICIENT_SIZE;
  }
  const State::Guard guard(&nvml_state());
  const std::vector<Busy> busy = busy_processes(index, since);
  const unsigned int room = *count;
  *count = static_cast<unsigned int>(busy.size());
  if (busy.empty()) return NVML_ERROR_NOT_FOUND;
  if (busy.size() > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (size_t i = 0; i < busy.size(); ++i)
    list[i] = {busy[i].pid, busy[i].when_us, busy[i].percent, busy[i].percent / 2, 0, 0};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                   nvmlProcessesUtilizationInfo_t* info) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (info->version != nvmlProcessesUtilizationInfo_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (info->procUtilArray == nullptr) {
    info->processSamplesCount = kSampleCapacity;
    return NVML_ERROR_INSUFFICIENT_SIZE;
  }
  const State::Guard guard(&nvml_state());
  const std::vector<Busy> busy = busy_processes(index, info->lastSeenTimeStamp);
  const unsigned int room = info->processSamplesCount;
  info->processSamplesCount = static_cast<unsigned int>(busy.size());
  if (busy.empty()) return NVML_ERROR_NOT_FOUND;
  if (busy.size() > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (size_t i = 0; i < busy.size(); ++i) {
    info->procUtilArray[i] = {
        busy[i].when_us, busy[i].pid, busy[i].percent, busy[i].percent / 2, 0, 0, 0, 0};
  }
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t* mode) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  if (device_index(device) < 0 || mode == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *mode = nvml_state().file().accounting != 0 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int* count,
                                         unsigned int* pids) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (nvml_state().file().accounting == 0) return NVML_ERROR_NOT_SUPPORTED;
  const State::Guard guard(&nvml_state());
  const std::vector<Entry> entries = compute_processes(index);
  const auto needed = static_cast<unsigned int>(entries.size());
  const bool fits = needed <= *count && (pids != nullptr || needed == 0);
  *count = needed;
  if (!fits) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < needed; ++i) pids[i] = entries[i].pid;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                          nvmlAccountingStats_t* stats) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || stats == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (nvml_state().file().accounting == 0) return NVML_ERROR_NOT_SUPPORTED;
  const State::Guard guard(&nvml_state());
  for (const Entry& entry : compute_processes(index)) {
    if (entry.pid != pid) continue;
    *stats = nvmlAccountingStats_t{};
    stats->maxMemoryUsage = entry.row->usage[index].listed_high.load(std::memory_order_relaxed);
    stats->startTime = entry.row->since_ns / 1000;
    stats->isRunning = 1;
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}
