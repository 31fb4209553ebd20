// What the driver says about an address.
#include <algorithm>

#include "driver/objects.h"
#include "driver/pool.h"

namespace softmig::sim {
namespace {

bool is_host(const Range& range) {
  return range.kind == RangeKind::kHost || range.kind == RangeKind::kRegistered;
}

template <class T>
CUresult put(void* value, T what) {
  *static_cast<T*>(value) = what;
  return CUDA_SUCCESS;
}

int ordinal_of(const Range& range) {
  for (const auto& device : driver().devices) {
    if (device->index == range.device) return device->ordinal;
  }
  return CU_DEVICE_INVALID;
}

CUcontext context_of(const Range& range) {
  if (range.context != nullptr) return reinterpret_cast<CUcontext>(range.context);
  Device* device = driver().device(ordinal_of(range));
  return device != nullptr ? reinterpret_cast<CUcontext>(device->primary) : nullptr;
}

CUresult attribute(void* value, CUpointer_attribute which, uint64_t address, const Extent& extent) {
  const Range& range = *extent.range;
  switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return put(value, context_of(range));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return put<unsigned int>(value, is_host(range) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return put<CUdeviceptr>(value, address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!is_host(range) && range.kind != RangeKind::kManaged) return CUDA_ERROR_INVALID_VALUE;
      return put(value, reinterpret_cast<void*>(address));
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      return put(value, 0u);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return put<unsigned long long>(value, range.id << 20 | ((extent.base - range.base) / kUnit));
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return put<unsigned int>(value, range.kind == RangeKind::kManaged);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return put(value, ordinal_of(range));
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return put<unsigned int>(value,
                               range.kind == RangeKind::kLinear || range.kind == RangeKind::kBlock);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return put<CUdeviceptr>(value, extent.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return put<size_t>(value, extent.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return put(value, 1u);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return put(value, 0u);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return put<unsigned int>(value, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: {
      Pool* pool = range.kind == RangeKind::kPool ? pool_of(extent.range) : nullptr;
      return put(value, reinterpret_cast<CUmemoryPool>(pool));
    }
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return put<size_t>(value, extent.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return put<CUdeviceptr>(value, extent.base);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return put<unsigned long long>(value, range.id);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

// What the plural form answers for an address that the driver does not know.
void clear(void* value, CUpointer_attribute which) {
  switch (which) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      *static_cast<unsigned int*>(value) = 0;
      break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *static_cast<int*>(value) = CU_DEVICE_INVALID;
      break;
    default:
      *static_cast<uint64_t*>(value) = 0;
      break;
  }
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute which, CUdeviceptr address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Extent extent;
  if (value == nullptr || !find_extent(address, &extent)) return CUDA_ERROR_INVALID_VALUE;
  return attribute(value, which, address, extent);
}

CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute* which, void** values,
                                CUdeviceptr address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (count == 0 || which == nullptr || values == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Extent extent;
  const bool known = find_extent(address, &extent);
  for (unsigned int i = 0; i < count; ++i) {
    if (!known || attribute(values[i], which[i], address, extent) != CUDA_SUCCESS)
      clear(values[i], which[i]);
  }
  return CUDA_SUCCESS;
}
