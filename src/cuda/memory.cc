// cuMemAlloc and its kin: plain, pitched and managed memory.
//
// The driver takes memory in pages of 2 MiB and packs what is smaller than one into pages that
// begin at multiples of 2 MiB in the address space. An allocation therefore costs the pages that it
// is the first to touch, and gives back those that it is the last to leave.
#include "cuda/pool.h"
#include "cuda/state.h"

namespace softmig::cuda {
namespace {

// Counts one allocation in or out of the page at its edge. True if it is the first or the last
// there.
bool enter_block(uint64_t block) {
  bool first = false;
  tables.blocks.update_or_insert(block, [&](Record& record) {
    first = record.detail++ == 0;
    return true;
  });
  return first;
}

bool leave_block(uint64_t block) {
  bool last = false;
  tables.blocks.update(block, [&](Record& record) {
    last = --record.detail == 0;
    return !last;
  });
  return last;
}

// Bytes of the pages that [address, address + bytes) alone touches, counting it in or out.
template <typename Count>
uint64_t pages_of(uint64_t address, uint64_t bytes, Count count) {
  const uint64_t end = address + bytes;
  uint64_t whole_from = base::round_up(address, kPage), whole_to = end / kPage * kPage;
  uint64_t pages = 0;
  if (address % kPage != 0 && count(address / kPage)) pages += kPage;
  if (whole_to >= whole_from) {
    pages += whole_to - whole_from;
    if (end % kPage != 0 && count(end / kPage)) pages += kPage;
  }
  return pages;
}

uint64_t enter_pages(uint64_t address, uint64_t bytes) {
  return pages_of(address, bytes, enter_block);
}
uint64_t leave_pages(uint64_t address, uint64_t bytes) {
  return pages_of(address, bytes, leave_block);
}

void give_back(uint64_t address, const Record& record) {
  const uint64_t pages = leave_pages(address, record.bytes);
  if (record.object >= 0) {
    slice().drop_object(record.object);
  } else {
    slice().release(record.device, pages);
  }
}

void keep(Charge& charge, const Place& place, uint64_t address, uint64_t bytes) {
  charge.keep(enter_pages(address, bytes));
  keep_record(tables.pointers, address,
              {bytes, 0, place.context, static_cast<int16_t>(place.device)},
              [=](const Record& record) { give_back(address, record); });
}

// Reserve, call, commit. `call` is the driver's function with the program's arguments.
template <typename Address, typename Call>
[[gnu::noinline]] CUresult allocate(Address* out, uint64_t bytes, Call call) {
  Place place;
  if (out == nullptr || bytes == 0 || !current_place(&place)) return call();
  Charge charge(place.device, in_pages(bytes));
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result == CUDA_SUCCESS) keep(charge, place, *out, bytes);
  return result;
}

// Rows are padded to what the driver likes: reserved by the padding last seen, corrected by its
// word.
constinit std::atomic<uint64_t> g_pitch_step{512};

template <typename Address, typename Size, typename Call>
[[gnu::noinline]] CUresult allocate_pitch(Address* out, Size* pitch, uint64_t width,
                                          uint64_t height, Call call) {
  Place place;
  uint64_t bytes = 0;
  const uint64_t row = base::round_up(width, g_pitch_step.load(std::memory_order_relaxed));
  if (out == nullptr || pitch == nullptr || !current_place(&place)) return call();
  if (row < width || __builtin_mul_overflow(row, height, &bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  Charge charge(place.device, in_pages(bytes));
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  if (*pitch > row) g_pitch_step.store(*pitch & -*pitch, std::memory_order_relaxed);
  keep(charge, place, *out, uint64_t{*pitch} * height);
  return result;
}

}  // namespace

// What is no allocation of ours came from a pool.
template <typename Call>
[[gnu::noinline]] CUresult free_pointer(uint64_t address, Call call) {
  bool known = false;
  const CUresult result = end_record(tables.pointers, address, call, [&](const Record& record) {
    known = true;
    give_back(address, record);
  });
  if (!known) pools_may_shrink();
  return result;
}

void drop_pointers(uint32_t context) {
  uint64_t address;
  Record record;
  while (tables.pointers.take_one_of(context, &address, &record)) give_back(address, record);
}

}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::allocate;
using softmig::cuda::allocate_pitch;
using softmig::cuda::free_pointer;
using softmig::cuda::tables;

SM_HOOK(cuMemAlloc, 2000) CUresult cuMemAlloc(CUdeviceptr_v1* out, unsigned int bytes) {
  if (!active()) return next_cuMemAlloc(out, bytes);
  return allocate(out, bytes, [=] { return next_cuMemAlloc(out, bytes); });
}

SM_HOOK(cuMemAlloc_v2, 3020) CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
  if (!active()) return next_cuMemAlloc_v2(out, bytes);
  return allocate(out, bytes, [=] { return next_cuMemAlloc_v2(out, bytes); });
}

SM_HOOK(cuMemAllocPitch, 2000)
CUresult cuMemAllocPitch(CUdeviceptr_v1* out, unsigned int* pitch, unsigned int width,
                         unsigned int height, unsigned int element) {
  if (!active()) return next_cuMemAllocPitch(out, pitch, width, height, element);
  return allocate_pitch(out, pitch, width, height,
                        [=] { return next_cuMemAllocPitch(out, pitch, width, height, element); });
}

SM_HOOK(cuMemAllocPitch_v2, 3020)
CUresult cuMemAllocPitch_v2(CUdeviceptr* out, size_t* pitch, size_t width, size_t height,
                            unsigned int element) {
  if (!active()) return next_cuMemAllocPitch_v2(out, pitch, width, height, element);
  return allocate_pitch(out, pitch, width, height, [&] {
    return next_cuMemAllocPitch_v2(out, pitch, width, height, element);
  });
}

SM_HOOK(cuMemAllocManaged, 6000)
CUresult cuMemAllocManaged(CUdeviceptr* out, size_t bytes, unsigned int flags) {
  if (!active()) return next_cuMemAllocManaged(out, bytes, flags);
  return allocate(out, bytes, [=] { return next_cuMemAllocManaged(out, bytes, flags); });
}

SM_HOOK(cuMemFree, 2000) CUresult cuMemFree(CUdeviceptr_v1 address) {
  if (!active()) return next_cuMemFree(address);
  return free_pointer(address, [=] { return next_cuMemFree(address); });
}

SM_HOOK(cuMemFree_v2, 3020) CUresult cuMemFree_v2(CUdeviceptr address) {
  if (!active()) return next_cuMemFree_v2(address);
  return free_pointer(address, [=] { return next_cuMemFree_v2(address); });
}

SM_HOOK(cuMemFreeAsync, 11020) CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  if (!active()) return next_cuMemFreeAsync(address, stream);
  if (!tables.pointers.empty()) {
    return free_pointer(address, [=] { return next_cuMemFreeAsync(address, stream); });
  }
  softmig::cuda::pools_may_shrink();
  return next_cuMemFreeAsync(address, stream);
}

SM_HOOK(cuMemFreeAsync_ptsz, 11020)
CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) {
  if (!active()) return next_cuMemFreeAsync_ptsz(address, stream);
  if (!tables.pointers.empty()) {
    return free_pointer(address, [=] { return next_cuMemFreeAsync_ptsz(address, stream); });
  }
  softmig::cuda::pools_may_shrink();
  return next_cuMemFreeAsync_ptsz(address, stream);
}
