#include "driver/vmm.h"

#include <unistd.h>

#include <algorithm>
#include <unordered_map>

#include "driver/objects.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kGranularity = kPage;

std::unordered_map<uint64_t, std::unique_ptr<Physical>>& physicals() {
  static auto* const all = new std::unordered_map<uint64_t, std::unique_ptr<Physical>>();
  return *all;
}

bool is_host(CUmemLocationType type) {
  return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
         type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

// The device that the properties name; null is right for host memory.
CUresult check_props(const CUmemAllocationProp* props, Device** device) {
  if (props == nullptr || props->type != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  const unsigned int handles = props->requestedHandleTypes;
  if ((handles & ~1u) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  *device = nullptr;
  if (is_host(props->location.type)) return CUDA_SUCCESS;
  if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  *device = driver().device(props->location.id);
  return *device != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

Physical* make_physical(Device* device, uint64_t bytes, const CUmemAllocationProp& props) {
  auto physical = std::make_unique<Physical>();
  physical->handle = driver().next_id++ << 4;
  physical->device = device;
  physical->bytes = bytes;
  physical->props = props;
  physical->references = 1;
  physical->storage = std::make_shared<Storage>();
  Physical* made = physical.get();
  physicals()[made->handle] = std::move(physical);
  return made;
}

void give_back(Physical* physical) {
  if (physical->object) {
    const State::Guard guard(driver().state);
    release_object(driver().process, physical->object);
  } else if (physical->device != nullptr) {
    driver().process->give(physical->device->index, physical->bytes);
  }
}

bool is_aligned(uint64_t value) { return value % kGranularity == 0; }

Range* reservation_of(uint64_t address, uint64_t bytes) {
  Range* range = find_range(address);
  const bool good = range != nullptr && range->kind == RangeKind::kReservation &&
                    bytes <= range->base + range->bytes - address;
  return good ? range : nullptr;
}

using Mappings = std::map<uint64_t, Mapping>;

// The mappings that make up [address, + bytes) exactly; false where there is a hole or a part.
bool find_whole(Reservation* reservation, uint64_t address, uint64_t bytes,
                Mappings::iterator* first, Mappings::iterator* end) {
  Mappings& mappings = reservation->mappings;
  *first = mappings.find(address);
  uint64_t at = address;
  for (*end = *first; *end != mappings.end() && at < address + bytes; ++*end) {
    if ((*end)->first != at) return false;
    at += (*end)->second.bytes;
  }
  return at == address + bytes;
}

bool is_free(const Reservation& reservation, uint64_t address, uint64_t bytes) {
  const auto next = reservation.mappings.lower_bound(address);
  if (next != reservation.mappings.end() && next->first < address + bytes) return false;
  if (next == reservation.mappings.begin()) return true;
  const auto before = std::prev(next);
  return before->first + before->second.bytes <= address;
}

CUresult map(uint64_t address, uint64_t bytes, uint64_t offset, uint64_t handle, uint64_t flags) {
  Physical* physical = find_physical(handle);
  const bool sizes =
      bytes != 0 && is_aligned(bytes) && is_aligned(address) && offset == 0 && flags == 0;
  if (physical == nullptr || !sizes || bytes > physical->bytes) return CUDA_ERROR_INVALID_VALUE;
  Range* range = reservation_of(address, bytes);
  if (range == nullptr || !is_free(*range->reservation, address, bytes))
    return CUDA_ERROR_INVALID_VALUE;
  Mapping mapping;
  mapping.bytes = bytes;
  mapping.physical = physical;
  range->reservation->mappings[address] = mapping;
  physical->mappings++;
  return CUDA_SUCCESS;
}

// Puts the memory under an object, which other processes can hold.
bool share(Physical* physical) {
  if (physical->object) return true;
  const State::Guard guard(driver().state);
  const int device = physical->device->index;
  const ObjectId id =
      make_object(driver().process, ObjectKind::kVmm, device, physical->bytes, true);
  if (!id) return false;
  physical->object = id;
  physical->storage = open_shared_storage(id, physical->bytes, true, physical->storage.get());
  return true;
}

CUresult export_fd(Physical* physical, int* out) {
  if ((physical->props.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (physical->device == nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  if (!share(physical)) return CUDA_ERROR_OUT_OF_MEMORY;
  const State::Guard guard(driver().state);
  *out = export_object(driver().process, physical->object);
  return *out >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

Device* device_of_index(uint32_t index) {
  for (auto& device : driver().devices) {
    if (device->index == static_cast<int>(index)) return device.get();
  }
  return nullptr;
}

CUresult import_fd(int fd, CUmemGenericAllocationHandle* out) {
  ObjectId id;
  Device* device = nullptr;
  uint64_t bytes = 0;
  {
    const State::Guard guard(driver().state);
    id = object_of_descriptor(driver().state, fd);
    const ObjectRow* found = id ? find_object(driver().state, id) : nullptr;
    if (found == nullptr || found->kind != ObjectKind::kVmm) return CUDA_ERROR_INVALID_VALUE;
    device = device_of_index(found->device);
    bytes = found->bytes;
    if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
    if (!hold_object(driver().process, id)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  CUmemAllocationProp props{};
  props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, device->ordinal};
  Physical* physical = make_physical(device, bytes, props);
  physical->object = id;
  physical->storage = open_shared_storage(id, bytes, false, nullptr);
  *out = physical->handle;
  return CUDA_SUCCESS;
}

}  // namespace

Physical* find_physical(CUmemGenericAllocationHandle handle) {
  const auto at = physicals().find(handle);
  return at != physicals().end() ? at->second.get() : nullptr;
}

void drop_if_unused(Physical* physical) {
  if (physical->references != 0 || physical->mappings != 0) return;
  give_back(physical);
  physicals().erase(physical->handle);
}

bool find_mapping(Range* range, uint64_t address, Extent* extent, Storage** storage,
                  uint64_t* storage_offset, uint64_t* contiguous) {
  auto& mappings = range->reservation->mappings;
  auto at = mappings.upper_bound(address);
  if (at == mappings.begin()) return false;
  --at;
  if (address - at->first >= at->second.bytes) return false;
  *extent = {range, at->first, at->second.bytes};
  if (storage == nullptr) return true;
  *storage = at->second.physical->storage.get();
  *storage_offset = address - at->first;
  *contiguous = at->first + at->second.bytes - address;
  const Context* context = current_context();
  return context != nullptr &&
         at->second.access[context->device->index] != CU_MEM_ACCESS_FLAGS_PROT_NONE;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuMemGetAllocationGranularity(std::size_t* bytes, const CUmemAllocationProp* props,
                                       CUmemAllocationGranularity_flags option) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = nullptr;
  if (bytes == nullptr || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
    return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult code = check_props(props, &device)) return code;
  *bytes = kGranularity;
  return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes,
                     const CUmemAllocationProp* props, unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = nullptr;
  if (handle == nullptr || bytes == 0 || !is_aligned(bytes) || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult code = check_props(props, &device)) return code;
  if (device != nullptr && !driver().process->take(device->index, bytes))
    return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = make_physical(device, bytes, *props)->handle;
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Physical* physical = find_physical(handle);
  if (physical == nullptr || physical->references == 0) return CUDA_ERROR_INVALID_VALUE;
  physical->references--;
  drop_if_unused(physical);
  return CUDA_SUCCESS;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Range* range = find_range(reinterpret_cast<uint64_t>(address));
  Extent extent;
  if (handle == nullptr || range == nullptr || range->kind != RangeKind::kReservation ||
      !find_mapping(range, reinterpret_cast<uint64_t>(address), &extent, nullptr, nullptr,
                    nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Physical* physical = range->reservation->mappings[extent.base].physical;
  physical->references++;
  *handle = physical->handle;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* props,
                                                CUmemGenericAllocationHandle handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const Physical* physical = find_physical(handle);
  if (props == nullptr || physical == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *props = physical->props;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* out, std::size_t bytes, std::size_t alignment,
                             CUdeviceptr wish, unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const bool power = (alignment & (alignment - 1)) == 0;
  if (out == nullptr || bytes == 0 || !is_aligned(bytes) || !power || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t base =
      driver().space.take(bytes, std::max<uint64_t>(alignment, kGranularity), wish);
  if (base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  Device* device = call.context() != nullptr ? call.device() : driver().devices[0].get();
  add_range(RangeKind::kReservation, base, bytes, device, nullptr)->reservation = new Reservation();
  *out = base;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, std::size_t bytes) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Range* range = reservation_of(address, bytes);
  if (range == nullptr || range->base != address || range->bytes != bytes)
    return CUDA_ERROR_INVALID_VALUE;
  if (!range->reservation->mappings.empty()) return CUDA_ERROR_INVALID_VALUE;
  delete range->reservation;
  free_range(range);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : map(address, bytes, offset, handle, flags);
}

CUresult cuMemUnmap(CUdeviceptr address, std::size_t bytes) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Range* range = reservation_of(address, bytes);
  Mappings::iterator first, end;
  if (range == nullptr || !find_whole(range->reservation, address, bytes, &first, &end))
    return CUDA_ERROR_INVALID_VALUE;
  std::vector<Physical*> unmapped;
  for (auto at = first; at != end; ++at) unmapped.push_back(at->second.physical);
  range->reservation->mappings.erase(first, end);
  for (Physical* physical : unmapped) physical->mappings--;
  std::sort(unmapped.begin(), unmapped.end());
  unmapped.erase(std::unique(unmapped.begin(), unmapped.end()), unmapped.end());
  for (Physical* physical : unmapped) drop_if_unused(physical);
  return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc* list,
                        std::size_t count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Range* range = reservation_of(address, bytes);
  Mappings::iterator first, end;
  if (range == nullptr || list == nullptr || count == 0 ||
      !find_whole(range->reservation, address, bytes, &first, &end)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const CUmemLocation& where = list[i].location;
    if (is_host(where.type)) continue;
    const Device* device =
        where.type == CU_MEM_LOCATION_TYPE_DEVICE ? driver().device(where.id) : nullptr;
    if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
    for (auto at = first; at != end; ++at) at->second.access[device->index] = list[i].flags;
  }
  return CUDA_SUCCESS;
}

CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                        CUdeviceptr address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Range* range = reservation_of(address, 1);
  Extent extent;
  if (flags == nullptr || location == nullptr || range == nullptr ||
      !find_mapping(range, address, &extent, nullptr, nullptr, nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Device* device =
      location->type == CU_MEM_LOCATION_TYPE_DEVICE ? driver().device(location->id) : nullptr;
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *flags = range->reservation->mappings[extent.base].access[device->index];
  return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Physical* physical = find_physical(handle);
  if (out == nullptr || physical == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return export_fd(physical, static_cast<int*>(out));
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* os_handle,
                                        CUmemAllocationHandleType type) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return import_fd(static_cast<int>(reinterpret_cast<intptr_t>(os_handle)), handle);
}

CUresult cuMemGetHandleForAddressRange(void*, CUdeviceptr, std::size_t, CUmemRangeHandleType,
                                       unsigned long long) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle*, const CUmulticastObjectProp*) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle, CUdevice) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle, std::size_t, CUmemGenericAllocationHandle,
                            std::size_t, std::size_t, unsigned long long) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : CUDA_ERROR_NOT_SUPPORTED;
}
