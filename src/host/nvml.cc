#include "host/nvml.h"

#include <dlfcn.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "job/region.h"

namespace softmig::host {
namespace {

constexpr unsigned int kManyProcesses = 256;

template <typename Info>
void add(const Info& info, std::vector<NvmlProcess>* list) {
  const bool known = static_cast<long long>(info.usedGpuMemory) != NVML_VALUE_NOT_AVAILABLE;
  for (NvmlProcess& process : *list) {
    if (process.pid != info.pid) continue;  // once for each part of a card that MIG splits
    process.bytes += known ? info.usedGpuMemory : 0;
    process.known = process.known && known;
    return;
  }
  list->push_back({info.pid, known ? info.usedGpuMemory : 0, known});
}

// One version of the list; the array grows until the driver is content with it.
template <typename Info>
std::optional<std::vector<NvmlProcess>> list_with(nvmlReturn_t (*function)(nvmlDevice_t,
                                                                           unsigned int*, Info*),
                                                  nvmlDevice_t device) {
  std::vector<Info> infos(kManyProcesses);
  for (int attempt = 0; attempt < 4; attempt++) {
    auto count = static_cast<unsigned int>(infos.size());
    const nvmlReturn_t result = function(device, &count, infos.data());
    if (result == NVML_ERROR_INSUFFICIENT_SIZE) {
      infos.resize(std::max<size_t>(infos.size() * 2, count + kManyProcesses));
      continue;
    }
    if (result != NVML_SUCCESS) return std::nullopt;
    std::vector<NvmlProcess> list;
    for (unsigned int i = 0; i < count && i < infos.size(); i++) add(infos[i], &list);
    return list;
  }
  return std::nullopt;
}

// As documented for r615; not among the declarations of abi/nvml.h, which are those of CUDA 12.0 to
// 13.0.
struct MemoryLimits {
  const char* cgroup;
  unsigned long long soft, hard;  // bytes
};
using SetMemoryLimits = nvmlReturn_t (*)(nvmlDevice_t, MemoryLimits*);

// A process that computes and draws is in both lists, with the same figure.
void merge(const std::vector<NvmlProcess>& more, std::vector<NvmlProcess>* list) {
  for (const NvmlProcess& process : more) {
    const auto known = std::find_if(list->begin(), list->end(), [&](const NvmlProcess& other) {
      return other.pid == process.pid;
    });
    if (known == list->end()) {
      list->push_back(process);
    } else if (process.known) {
      known->bytes = std::max(known->bytes, process.bytes);
      known->known = true;
    }
  }
}

}  // namespace

struct Nvml::Functions {
#define SM_NVML_FUNCTIONS(X)                    \
  X(nvmlInit_v2)                                \
  X(nvmlShutdown)                               \
  X(nvmlErrorString)                            \
  X(nvmlSystemGetDriverVersion)                 \
  X(nvmlDeviceGetCount_v2)                      \
  X(nvmlDeviceGetHandleByIndex_v2)              \
  X(nvmlDeviceGetName)                          \
  X(nvmlDeviceGetUUID)                          \
  X(nvmlDeviceGetMemoryInfo)                    \
  X(nvmlDeviceGetMemoryInfo_v2)                 \
  X(nvmlDeviceGetUtilizationRates)              \
  X(nvmlDeviceGetComputeRunningProcesses)       \
  X(nvmlDeviceGetComputeRunningProcesses_v2)    \
  X(nvmlDeviceGetComputeRunningProcesses_v3)    \
  X(nvmlDeviceGetGraphicsRunningProcesses_v3)   \
  X(nvmlDeviceGetMPSComputeRunningProcesses_v3) \
  X(nvmlDeviceGetProcessUtilization)
// NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration
#define SM_POINTER(name) decltype(&::name) name = nullptr;
  SM_NVML_FUNCTIONS(SM_POINTER)
#undef SM_POINTER

  explicit Functions(void* library) {
#define SM_FIND(symbol) (symbol) = reinterpret_cast<decltype(symbol)>(dlsym(library, #symbol));
    SM_NVML_FUNCTIONS(SM_FIND)
#undef SM_FIND
#undef SM_NVML_FUNCTIONS
    set_memory_limits =
        reinterpret_cast<SetMemoryLimits>(dlsym(library, "nvmlDeviceSetMemoryLimits_v1"));
  }

  SetMemoryLimits set_memory_limits = nullptr;

  bool usable() const {
    return nvmlInit_v2 != nullptr && nvmlShutdown != nullptr && nvmlDeviceGetCount_v2 != nullptr &&
           nvmlDeviceGetHandleByIndex_v2 != nullptr && nvmlDeviceGetName != nullptr &&
           nvmlDeviceGetUUID != nullptr;
  }
};

Nvml::Nvml() = default;

Nvml::~Nvml() {
  if (started_) call_->nvmlShutdown();
  // So that the next one is that of an updated driver.
  if (library_ != nullptr) dlclose(library_);
}

std::unique_ptr<Nvml> Nvml::open(std::string* error, const std::string& library) {
  std::unique_ptr<Nvml> nvml(new Nvml);
  *error = nvml->start(library);
  return error->empty() ? std::move(nvml) : nullptr;
}

std::string Nvml::start(const std::string& library) {
  library_ = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr) return "NVML (" + library + ") is not there";
  call_ = std::make_unique<Functions>(library_);
  if (!call_->usable()) return library + " is not NVML, or a very old one";
  const nvmlReturn_t result = call_->nvmlInit_v2();
  if (result != NVML_SUCCESS) {
    const char* text = call_->nvmlErrorString != nullptr ? call_->nvmlErrorString(result) : "";
    return fmt::format("NVML does not start: {} ({})", text, static_cast<int>(result));
  }
  started_ = true;
  find_devices();
  return {};
}

void Nvml::find_devices() {
  // Not among the declarations of abi/nvml.h, since the library does not hook it.
  using GetMinorNumber = nvmlReturn_t (*)(nvmlDevice_t, unsigned int*);
  const auto get_minor =
      reinterpret_cast<GetMinorNumber>(dlsym(library_, "nvmlDeviceGetMinorNumber"));
  unsigned int count = 0;
  if (call_->nvmlDeviceGetCount_v2(&count) != NVML_SUCCESS) return;
  for (unsigned int i = 0; i < count; i++) {
    NvmlDevice device;
    device.index = static_cast<int>(i);
    unsigned int minor = i;
    char name[NVML_DEVICE_NAME_V2_BUFFER_SIZE] = {}, uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE] = {};
    // A card that fell off the bus, or one that this job may not open, is left out.
    if (call_->nvmlDeviceGetHandleByIndex_v2(i, &device.handle) != NVML_SUCCESS ||
        call_->nvmlDeviceGetUUID(device.handle, uuid, sizeof uuid) != NVML_SUCCESS) {
      continue;
    }
    if (get_minor != nullptr) get_minor(device.handle, &minor);
    device.minor = static_cast<int>(minor);
    call_->nvmlDeviceGetName(device.handle, name, sizeof name);
    device.name = name;
    device.uuid_text = uuid;
    if (!policy::parse_uuid(uuid, &device.uuid)) continue;
    device.key = job::device_key(device.uuid);
    devices_.push_back(device);
  }
}

const NvmlDevice* Nvml::device_with_key(uint64_t key) const {
  for (const NvmlDevice& device : devices_) {
    if (device.key == key) return &device;
  }
  return nullptr;
}

std::string Nvml::driver_version() const {
  char text[NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE] = {};
  if (call_->nvmlSystemGetDriverVersion != nullptr) {
    call_->nvmlSystemGetDriverVersion(text, sizeof text);
  }
  return text;
}

std::optional<NvmlMemory> Nvml::memory(nvmlDevice_t device) const {
  if (call_->nvmlDeviceGetMemoryInfo_v2 != nullptr) {
    nvmlMemory_v2_t memory = {};
    memory.version = nvmlMemory_v2;
    if (call_->nvmlDeviceGetMemoryInfo_v2(device, &memory) == NVML_SUCCESS) {
      return NvmlMemory{memory.total, memory.used};
    }
  }
  nvmlMemory_t memory = {};
  if (call_->nvmlDeviceGetMemoryInfo == nullptr ||
      call_->nvmlDeviceGetMemoryInfo(device, &memory) != NVML_SUCCESS) {
    return std::nullopt;
  }
  return NvmlMemory{memory.total, memory.used};
}

std::optional<unsigned> Nvml::busy(nvmlDevice_t device) const {
  nvmlUtilization_t rates = {};
  if (call_->nvmlDeviceGetUtilizationRates == nullptr ||
      call_->nvmlDeviceGetUtilizationRates(device, &rates) != NVML_SUCCESS) {
    return std::nullopt;
  }
  return rates.gpu;
}

std::optional<std::vector<NvmlProcess>> Nvml::processes(nvmlDevice_t device) const {
  if (call_->nvmlDeviceGetComputeRunningProcesses_v3 != nullptr) {
    return list_with(call_->nvmlDeviceGetComputeRunningProcesses_v3, device);
  }
  if (call_->nvmlDeviceGetComputeRunningProcesses_v2 != nullptr) {
    return list_with(call_->nvmlDeviceGetComputeRunningProcesses_v2, device);
  }
  if (call_->nvmlDeviceGetComputeRunningProcesses != nullptr) {
    return list_with(call_->nvmlDeviceGetComputeRunningProcesses, device);
  }
  return std::nullopt;
}

std::optional<std::vector<NvmlProcess>> Nvml::all_processes(nvmlDevice_t device) const {
  auto list = processes(device);
  if (!list) return std::nullopt;
  for (const auto function : {call_->nvmlDeviceGetGraphicsRunningProcesses_v3,
                              call_->nvmlDeviceGetMPSComputeRunningProcesses_v3}) {
    if (function == nullptr) continue;
    if (const auto more = list_with(function, device)) merge(*more, &*list);
  }
  return list;
}

std::optional<std::vector<NvmlBusy>> Nvml::process_busy(nvmlDevice_t device,
                                                        uint64_t since_us) const {
  if (call_->nvmlDeviceGetProcessUtilization == nullptr) return std::nullopt;
  std::vector<nvmlProcessUtilizationSample_t> samples(kManyProcesses);
  auto count = static_cast<unsigned int>(samples.size());
  nvmlReturn_t result = NVML_ERROR_INSUFFICIENT_SIZE;
  for (int attempt = 0; attempt < 4 && result == NVML_ERROR_INSUFFICIENT_SIZE; attempt++) {
    if (attempt > 0) samples.resize(std::max<size_t>(samples.size() * 2, count + kManyProcesses));
    count = static_cast<unsigned int>(samples.size());
    result = call_->nvmlDeviceGetProcessUtilization(device, samples.data(), &count, since_us);
  }
  std::vector<NvmlBusy> list;
  if (result == NVML_ERROR_NOT_FOUND) return list;  // nobody was
  if (result != NVML_SUCCESS) return std::nullopt;
  for (unsigned int i = 0; i < count && i < samples.size(); i++) {
    list.push_back({samples[i].pid, samples[i].smUtil, samples[i].memUtil});
  }
  return list;
}

bool Nvml::can_limit_cgroups() const { return call_->set_memory_limits != nullptr; }

nvmlReturn_t Nvml::limit_cgroup(nvmlDevice_t device, const std::string& cgroup,
                                uint64_t bytes) const {
  if (call_->set_memory_limits == nullptr) return NVML_ERROR_FUNCTION_NOT_FOUND;
  MemoryLimits limits = {cgroup.c_str(), 0, bytes};
  return call_->set_memory_limits(device, &limits);
}

}  // namespace softmig::host
