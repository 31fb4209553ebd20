// Page-locked host memory. It costs the device nothing; its device address is its host address.
#include <sys/mman.h>

#include "driver/core.h"

namespace softmig::sim {
namespace {

CUresult allocate(Call& call, void** out, uint64_t bytes, unsigned int flags) {
  constexpr unsigned int kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if (out == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  const uint64_t rounded = round_up(bytes, 4096);
  void* at = rounded < bytes ? MAP_FAILED
                             : mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  Range* range = add_range(RangeKind::kHost, reinterpret_cast<uint64_t>(at), rounded, call.device(),
                           call.context());
  range->asked = bytes;
  range->flags = flags;
  *out = at;
  return CUDA_SUCCESS;
}

Range* host_range(const void* address) {
  Range* range = find_range(reinterpret_cast<uint64_t>(address));
  const bool host = range != nullptr &&
                    (range->kind == RangeKind::kHost || range->kind == RangeKind::kRegistered);
  return host ? range : nullptr;
}

CUresult register_memory(Call& call, void* address, uint64_t bytes, unsigned int flags) {
  constexpr unsigned int kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                                  CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
  if (address == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  const auto base = reinterpret_cast<uint64_t>(address);
  if (find_range(base) != nullptr || find_range(base + bytes - 1) != nullptr) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  add_range(RangeKind::kRegistered, base, bytes, call.device(), call.context())->flags = flags;
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuMemHostAlloc(void** out, std::size_t bytes, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : allocate(call, out, bytes, flags);
}

CUresult cuMemAllocHost_v2(void** out, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : allocate(call, out, bytes, 0);
}

CUresult cuMemAllocHost(void** out, unsigned int bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : allocate(call, out, bytes, 0);
}

CUresult cuMemFreeHost(void* address) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (call.forbidden_in_capture()) return call.code();
  Range* range = host_range(address);
  if (range == nullptr || range->kind != RangeKind::kHost ||
      range->base != reinterpret_cast<uint64_t>(address)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  free_range(range);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* address, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr || flags != 0 || host_range(address) == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<uint64_t>(address);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr_v1* out, void* address, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const auto value = reinterpret_cast<uint64_t>(address);
  if (out == nullptr || flags != 0 || host_range(address) == nullptr || value >> 32 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  *out = static_cast<CUdeviceptr_v1>(value);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned int* flags, void* address) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const Range* range = host_range(address);
  if (flags == nullptr || range == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = range->flags;
  return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : register_memory(call, address, bytes, flags);
}

CUresult cuMemHostRegister(void* address, std::size_t bytes, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : register_memory(call, address, bytes, flags);
}

CUresult cuMemHostUnregister(void* address) {
  Call call(__func__);
  if (call.failed()) return call.code();
  Range* range = host_range(address);
  if (range == nullptr || range->kind != RangeKind::kRegistered)
    return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  if (range->base != reinterpret_cast<uint64_t>(address)) return CUDA_ERROR_INVALID_VALUE;
  free_range(range);
  return CUDA_SUCCESS;
}
