// What the program is told about memory: its slice, not the card.
#include "cuda/pool.h"
#include "cuda/state.h"
#include "sys/clock.h"

namespace softmig::cuda {
namespace {

// What the driver last said of a card. Asking costs 7 us: where the card has plenty, an answer of
// this very millisecond is as good.
struct Card {
  std::atomic<uint64_t> free_bytes{0}, total_bytes{0}, asked_ns{0};
};
constinit Card g_cards[job::kDeviceIndices];
constexpr uint64_t kFreshNs = 1'000'000, kPlenty = base::kGiB;

job::DeviceMemory slice_of(int device) {
  settle_pools();  // what is reserved ahead of the pools is free
  return slice().view(device);
}

bool is_limited(const job::DeviceMemory& memory) {
  return memory.limit != 0 || slice().config().source == job::Source::kClosed;
}

uint64_t left_of(const job::DeviceMemory& memory) {
  return memory.limit > memory.used ? memory.limit - memory.used : 0;
}

// Both figures are the driver's, made smaller where the slice is: never an error, never an
// underflow.
template <typename Size>
void make_smaller(const job::DeviceMemory& memory, Size* free_bytes, Size* total_bytes) {
  if (*total_bytes > memory.limit) *total_bytes = static_cast<Size>(memory.limit);
  if (*free_bytes > left_of(memory)) *free_bytes = static_cast<Size>(left_of(memory));
}

template <typename Size, typename Call>
[[gnu::noinline]] CUresult memory_info(Size* free_bytes, Size* total_bytes, Call call) {
  Place place;
  if (!active() || free_bytes == nullptr || total_bytes == nullptr || !current_place(&place)) {
    return call();
  }
  const job::DeviceMemory memory = slice_of(place.device);
  if (!is_limited(memory)) return call();
  Card& card = g_cards[place.device];
  const uint64_t now = sys::monotonic_ns();
  const bool fresh = now - card.asked_ns.load(std::memory_order_acquire) < kFreshNs;
  if (fresh && left_of(memory) + kPlenty < card.free_bytes.load(std::memory_order_relaxed) &&
      memory.limit <= card.total_bytes.load(std::memory_order_relaxed)) {
    *free_bytes = static_cast<Size>(left_of(memory));
    *total_bytes = static_cast<Size>(memory.limit);
    return CUDA_SUCCESS;
  }
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  card.free_bytes.store(*free_bytes, std::memory_order_relaxed);
  card.total_bytes.store(*total_bytes, std::memory_order_relaxed);
  card.asked_ns.store(now, std::memory_order_release);
  make_smaller(memory, free_bytes, total_bytes);
  return result;
}

template <typename Size>
CUresult total_memory(CUresult result, Size* bytes, CUdevice ordinal) {
  if (!active() || result != CUDA_SUCCESS) return result;
  const int device = device_of(ordinal);
  if (device < 0) return result;
  const job::DeviceMemory memory = slice().view(device);
  Size free_bytes = *bytes;
  if (is_limited(memory)) make_smaller(memory, &free_bytes, bytes);
  return result;
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::memory_info;
using softmig::cuda::total_memory;

SM_HOOK(cuMemGetInfo, 2000)
CUresult cuMemGetInfo(unsigned int* free_bytes, unsigned int* total_bytes) {
  return memory_info(free_bytes, total_bytes,
                     [=] { return next_cuMemGetInfo(free_bytes, total_bytes); });
}

SM_HOOK(cuMemGetInfo_v2, 3020) CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
  return memory_info(free_bytes, total_bytes,
                     [=] { return next_cuMemGetInfo_v2(free_bytes, total_bytes); });
}

SM_HOOK(cuDeviceTotalMem, 2000) CUresult cuDeviceTotalMem(unsigned int* bytes, CUdevice device) {
  return total_memory(next_cuDeviceTotalMem(bytes, device), bytes, device);
}

SM_HOOK(cuDeviceTotalMem_v2, 3020) CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return total_memory(next_cuDeviceTotalMem_v2(bytes, device), bytes, device);
}
