// NVML: devices and their memory.
#include <strings.h>

#include <cstdio>
#include <cstring>

#include "nvml/library.h"
#include "state/activity.h"
#include "state/identity.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kSampleNs = 200'000'000;

char g_handles[kMaxDevices];  // their addresses are the handles

nvmlDevice_t device_handle(int index) { return reinterpret_cast<nvmlDevice_t>(&g_handles[index]); }

nvmlReturn_t count_devices(unsigned int* count) {
  if (count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = static_cast<unsigned int>(nvml_state().device_count());
  return NVML_SUCCESS;
}

nvmlReturn_t by_index(unsigned int index, nvmlDevice_t* device) {
  if (device == nullptr || index >= static_cast<unsigned int>(nvml_state().device_count()))
    return NVML_ERROR_INVALID_ARGUMENT;
  *device = device_handle(static_cast<int>(index));
  return NVML_SUCCESS;
}

// "00000000:1B:00.0", "0000:1b:00.0", "1b:00.0"
nvmlReturn_t by_bus(const char* text, nvmlDevice_t* device) {
  unsigned int domain = 0, bus = 0, slot = 0;
  if (text == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (std::sscanf(text, "%x:%x:%x", &domain, &bus, &slot) != 3) {
    domain = 0;
    if (std::sscanf(text, "%x:%x", &bus, &slot) != 2) return NVML_ERROR_INVALID_ARGUMENT;
  }
  for (int i = 0; i < nvml_state().device_count(); ++i) {
    const DeviceRow& row = nvml_state().file().devices[i];
    if (row.pci_domain != domain || row.pci_bus != bus || row.pci_slot != slot) continue;
    *device = device_handle(i);
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t bus_info(nvmlDevice_t device, nvmlPciInfo_t* info) {
  const int index = device_index(device);
  if (index < 0 || info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const DeviceRow& row = nvml_state().file().devices[index];
  *info = nvmlPciInfo_t{};
  std::snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%04X:%02X:%02X.0", row.pci_domain,
                row.pci_bus, row.pci_slot);
  std::snprintf(info->busId, sizeof info->busId, "%s", bus_text(row).c_str());
  info->domain = row.pci_domain;
  info->bus = row.pci_bus;
  info->device = row.pci_slot;
  info->pciDeviceId = row.pci_device_id;
  info->pciSubSystemId = 0x16c110de;
  return NVML_SUCCESS;
}

struct Memory {
  uint64_t total, reserved, free, used;
};

Memory memory_of(int index) {
  State& state = nvml_state();
  const State::Guard guard(&state);
  state.sweep(State::Care::kQuick);
  const DeviceRow& row = state.file().devices[index];
  const uint64_t free = state.available(index);
  return {row.total, row.reserved, free, row.total - row.reserved - free};
}

}  // namespace

int device_index(nvmlDevice_t handle) {
  const auto* at = reinterpret_cast<const char*>(handle);
  const bool ours = at >= g_handles && at < g_handles + nvml_state().device_count();
  return ours ? static_cast<int>(at - g_handles) : -1;
}

}  // namespace softmig::sim

using namespace softmig::sim;

nvmlReturn_t nvmlDeviceGetCount(unsigned int* count) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : count_devices(count);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int* count) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : count_devices(count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t* device) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : by_index(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t* device) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : by_index(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  if (uuid == nullptr || device == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (int i = 0; i < nvml_state().device_count(); ++i) {
    if (uuid_text(nvml_state().file().devices[i]) != uuid) continue;
    *device = device_handle(i);
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char* bus_id, nvmlDevice_t* device) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : by_bus(bus_id, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, nvmlDevice_t* device) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : by_bus(bus_id, device);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int* index) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  if (index == nullptr || device_index(device) < 0) return NVML_ERROR_INVALID_ARGUMENT;
  *index = static_cast<unsigned int>(device_index(device));
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned int capacity) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0) return NVML_ERROR_INVALID_ARGUMENT;
  return copy_text(nvml_state().file().devices[index].name, name, capacity);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned int capacity) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0) return NVML_ERROR_INVALID_ARGUMENT;
  return copy_text(uuid_text(nvml_state().file().devices[index]).c_str(), uuid, capacity);
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t* info) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : bus_info(device, info);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t* info) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : bus_info(device, info);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* info) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : bus_info(device, info);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int* current,
                                  unsigned int* pending) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || current == nullptr || pending == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const DeviceRow& row = nvml_state().file().devices[index];
  const bool can_split = row.minor == 0 && row.major >= 8;  // A100 and H100, none of the others
  if (!can_split) return NVML_ERROR_NOT_SUPPORTED;
  *current = *pending = 0;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const Memory now = memory_of(index);
  *memory = {now.total, now.free, now.used + now.reserved};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  const Memory now = memory_of(index);
  memory->total = now.total;
  memory->reserved = now.reserved;
  memory->free = now.free;
  memory->used = now.used;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t* rates) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const int index = device_index(device);
  if (index < 0 || rates == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  State& state = nvml_state();
  const State::Guard guard(&state);
  const uint64_t end = state.catch_up_figures() / kSampleNs * kSampleNs;
  uint64_t busy = 0;
  const uint32_t rows = state.file().processes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < rows; ++i) {
    const ProcessRow& row = state.file().processes[i];
    if (row.state.load(std::memory_order_acquire) != RowState::kLive) continue;
    busy += busy_within(row.usage[index].activity, end - kSampleNs, end);
  }
  rates->gpu = static_cast<unsigned int>(std::min<uint64_t>(100, busy * 100 / kSampleNs));
  rates->memory = rates->gpu / 2;
  return NVML_SUCCESS;
}
