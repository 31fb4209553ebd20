// Process lists: the job's own processes only, by NVML's own rules for the size of the caller's
// list.
#include "nvml/device.h"
#include "sys/memory.h"

namespace softmig::nvml {
namespace {

// Room for a driver's list of unknown length.
template <typename Item>
class Items {
 public:
  explicit Items(unsigned int count)
      : bytes_((count + kSpare) * sizeof(Item)),
        data_(static_cast<Item*>(sys::map_pages(bytes_))) {}
  ~Items() { sys::unmap_pages(data_, bytes_); }
  Items(const Items&) = delete;
  Items& operator=(const Items&) = delete;
  Item* data() { return data_; }
  unsigned int capacity() const { return static_cast<unsigned int>(bytes_ / sizeof(Item)); }

 private:
  static constexpr unsigned int kSpare = 64;  // processes that may start between two calls
  size_t bytes_;
  Item* data_;
};

// Calls `list(&count, items)` with room enough, keeps what is the job's own, and hands it over as
// NVML does: the count alone with INSUFFICIENT_SIZE if the caller's list is too short.
template <typename Item, typename List>
[[gnu::noinline]] nvmlReturn_t filter(unsigned int* count, Item* items, List list) {
  if (!active() || count == nullptr) return list(count, items);
  if (*count != 0 && items == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  const unsigned int capacity = items != nullptr ? *count : 0;
  unsigned int all = 0;
  nvmlReturn_t result = list(&all, static_cast<Item*>(nullptr));
  if (result != NVML_SUCCESS && result != NVML_ERROR_INSUFFICIENT_SIZE) return result;
  Items<Item> found(all);
  if (found.data() == nullptr) return NVML_ERROR_MEMORY;
  all = found.capacity();
  result = list(&all, found.data());
  if (result != NVML_SUCCESS) return result;
  unsigned int own = 0;
  for (unsigned int i = 0; i < all; i++) {
    if (is_own(found.data()[i].pid)) found.data()[own++] = found.data()[i];
  }
  *count = own;
  if (own > capacity) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < own; i++) items[i] = found.data()[i];
  return NVML_SUCCESS;
}

}  // namespace
}  // namespace softmig::nvml

using softmig::nvml::filter;

SM_HOOK(nvmlDeviceGetComputeRunningProcesses, 0)
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                  nvmlProcessInfo_v1_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v1_t* list) {
    return next_nvmlDeviceGetComputeRunningProcesses(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetComputeRunningProcesses_v2, 0)
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_v2_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v2_t* list) {
    return next_nvmlDeviceGetComputeRunningProcesses_v2(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetComputeRunningProcesses_v3, 0)
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_t* list) {
    return next_nvmlDeviceGetComputeRunningProcesses_v3(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetGraphicsRunningProcesses, 0)
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                   nvmlProcessInfo_v1_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v1_t* list) {
    return next_nvmlDeviceGetGraphicsRunningProcesses(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetGraphicsRunningProcesses_v2, 0)
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                      nvmlProcessInfo_v2_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v2_t* list) {
    return next_nvmlDeviceGetGraphicsRunningProcesses_v2(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetGraphicsRunningProcesses_v3, 0)
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                      nvmlProcessInfo_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_t* list) {
    return next_nvmlDeviceGetGraphicsRunningProcesses_v3(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetMPSComputeRunningProcesses, 0)
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int* count,
                                                     nvmlProcessInfo_v1_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v1_t* list) {
    return next_nvmlDeviceGetMPSComputeRunningProcesses(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetMPSComputeRunningProcesses_v2, 0)
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int* count,
                                                        nvmlProcessInfo_v2_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_v2_t* list) {
    return next_nvmlDeviceGetMPSComputeRunningProcesses_v2(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetMPSComputeRunningProcesses_v3, 0)
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* count,
                                                        nvmlProcessInfo_t* infos) {
  return filter(count, infos, [&](unsigned int* n, nvmlProcessInfo_t* list) {
    return next_nvmlDeviceGetMPSComputeRunningProcesses_v3(device, n, list);
  });
}

SM_HOOK(nvmlDeviceGetRunningProcessDetailList, 0)
nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t* list) {
  if (list == nullptr) return next_nvmlDeviceGetRunningProcessDetailList(device, list);
  return filter(&list->numProcArrayEntries, list->procArray,
                [&](unsigned int* n, nvmlProcessDetail_v1_t* items) {
                  nvmlProcessDetailList_t all = *list;
                  all.numProcArrayEntries = *n;
                  all.procArray = items;
                  const nvmlReturn_t result =
                      next_nvmlDeviceGetRunningProcessDetailList(device, &all);
                  *n = all.numProcArrayEntries;
                  return result;
                });
}

SM_HOOK(nvmlDeviceGetAccountingPids, 0)
nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int* count,
                                         unsigned int* pids) {
  struct Pid {
    unsigned int pid;
  };
  return filter(count, reinterpret_cast<Pid*>(pids), [&](unsigned int* n, Pid* list) {
    return next_nvmlDeviceGetAccountingPids(device, n, reinterpret_cast<unsigned int*>(list));
  });
}

SM_HOOK(nvmlDeviceGetAccountingStats, 0)
nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                          nvmlAccountingStats_t* stats) {
  const nvmlReturn_t result = next_nvmlDeviceGetAccountingStats(device, pid, stats);
  if (result != NVML_SUCCESS || !softmig::nvml::active() || softmig::nvml::is_own(pid)) {
    return result;
  }
  *stats = {};
  return NVML_ERROR_NOT_FOUND;
}
