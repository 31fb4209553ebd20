// What the program is told about memory: its slice, not the card.
#include "cuda/pool.h"
#include "cuda/state.h"

namespace softmig::cuda {
namespace {

// Both figures are the driver's, made smaller where the slice is: never an error, never an
// underflow.
template <typename Size>
void show_slice(int device, Size* free_bytes, Size* total_bytes) {
  settle_pools();  // what is reserved ahead of the pools is free
  const job::DeviceMemory memory = slice().view(device);
  if (memory.limit == 0 && slice().config().source != job::Source::kClosed) return;
  const uint64_t left = memory.limit > memory.used ? memory.limit - memory.used : 0;
  if (*total_bytes > memory.limit) *total_bytes = static_cast<Size>(memory.limit);
  if (*free_bytes > left) *free_bytes = static_cast<Size>(left);
}

template <typename Size>
CUresult memory_info(CUresult result, Size* free_bytes, Size* total_bytes) {
  Place place;
  if (active() && result == CUDA_SUCCESS && current_place(&place)) {
    show_slice(place.device, free_bytes, total_bytes);
  }
  return result;
}

template <typename Size>
CUresult total_memory(CUresult result, Size* bytes, CUdevice ordinal) {
  if (!active() || result != CUDA_SUCCESS) return result;
  const int device = device_of(ordinal);
  Size free_bytes = *bytes;
  if (device >= 0) show_slice(device, &free_bytes, bytes);
  return result;
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::memory_info;
using softmig::cuda::total_memory;

SM_HOOK(cuMemGetInfo, 2000)
CUresult cuMemGetInfo(unsigned int* free_bytes, unsigned int* total_bytes) {
  return memory_info(next_cuMemGetInfo(free_bytes, total_bytes), free_bytes, total_bytes);
}

SM_HOOK(cuMemGetInfo_v2, 3020) CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
  return memory_info(next_cuMemGetInfo_v2(free_bytes, total_bytes), free_bytes, total_bytes);
}

SM_HOOK(cuDeviceTotalMem, 2000) CUresult cuDeviceTotalMem(unsigned int* bytes, CUdevice device) {
  return total_memory(next_cuDeviceTotalMem(bytes, device), bytes, device);
}

SM_HOOK(cuDeviceTotalMem_v2, 3020) CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return total_memory(next_cuDeviceTotalMem_v2(bytes, device), bytes, device);
}
