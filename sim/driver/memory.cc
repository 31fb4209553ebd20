// cuMemAlloc and its relatives, and the table of address ranges.
#include <sys/mman.h>

#include <algorithm>

#include "driver/objects.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kPitchStep = 512;
constexpr uint64_t kLowEnd = uint64_t{1} << 32;
constexpr uint64_t kManagedGrain = 64 * kKiB;

AddressSpace& space_of(uint64_t address) {
  return address < kLowEnd ? driver().low_space : driver().space;
}

// Pages of the device with addresses, as a new range; null where there is no room.
Range* take_pages(Context* context, Arena* arena, RangeKind kind, uint64_t asked) {
  const uint64_t bytes = round_up(asked, kPage);
  Device* device = context->device;
  if (bytes < asked || !driver().process->take(device->index, bytes)) return nullptr;
  AddressSpace& space = arena == &context->low ? driver().low_space : driver().space;
  const uint64_t base = space.take(bytes, kPage);
  if (base == 0) {
    driver().process->give(device->index, bytes);
    return nullptr;
  }
  Range* range = add_range(kind, base, bytes, device, context);
  range->asked = asked;
  range->charged = bytes;
  range->arena = arena;
  return range;
}

CUresult allocate(Call& call, Arena* arena, uint64_t bytes, uint64_t* address) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  *address = take_linear(call.context(), arena, bytes, kUnit);
  return *address != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

bool is_good_element(unsigned int bytes) { return bytes == 4 || bytes == 8 || bytes == 16; }

CUresult allocate_pitch(Call& call, Arena* arena, uint64_t width, uint64_t height,
                        unsigned int element, uint64_t* pitch, uint64_t* address) {
  if (width == 0 || height == 0 || !is_good_element(element)) return CUDA_ERROR_INVALID_VALUE;
  *pitch = round_up(width, kPitchStep);
  if (*pitch < width || height > (uint64_t{1} << 47) / *pitch) return CUDA_ERROR_OUT_OF_MEMORY;
  return allocate(call, arena, *pitch * height, address);
}

CUresult free_address(Call& call, uint64_t address) {
  if (call.forbidden_in_capture()) return call.code();
  Extent extent;
  if (!find_extent(address, &extent) || extent.base != address) return CUDA_ERROR_INVALID_VALUE;
  Context* context = extent.range->context != nullptr ? extent.range->context : call.context();
  wait_for(call, context_work(*context));
  if (!find_extent(address, &extent) || extent.base != address) return CUDA_ERROR_INVALID_VALUE;
  switch (extent.range->kind) {
    case RangeKind::kLinear:
    case RangeKind::kBlock:
      if (extent.range->arena == &context->module || extent.range->arena == &context->array) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      return free_linear(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case RangeKind::kManaged:
    case RangeKind::kExternal:
      free_range(extent.range);
      return CUDA_SUCCESS;
    case RangeKind::kPool:
      return free_pool_address(extent.range, address, {}, true) ? CUDA_SUCCESS
                                                                : CUDA_ERROR_INVALID_VALUE;
    case RangeKind::kGraph:
      return free_graph_address(extent.range, address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

void give_back(Range* range) {
  if (range->object) {
    const State::Guard guard(driver().state);
    release_object(driver().process, range->object);
  } else if (range->charged != 0) {
    const bool managed = range->kind == RangeKind::kManaged;
    driver().process->give(range->device, managed ? 0 : range->charged,
                           managed ? range->charged : 0);
  }
}

CUresult range_of(uint64_t address, uint64_t* base, uint64_t* bytes) {
  Extent extent;
  if (!find_extent(address, &extent)) return CUDA_ERROR_NOT_FOUND;
  *base = extent.base;
  *bytes = extent.bytes;
  return CUDA_SUCCESS;
}

uint64_t usable(const Device& device) { return device.row->total - device.row->reserved; }

uint64_t free_now(const Device& device) {
  const State::Guard guard(driver().state);
  driver().state->sweep(State::Care::kQuick);
  return driver().state->available(device.index);
}

unsigned int clipped(uint64_t bytes) {
  return static_cast<unsigned int>(std::min<uint64_t>(bytes, ~0u));
}

}  // namespace

Range* find_range(uint64_t address) {
  auto& ranges = driver().ranges;
  auto at = ranges.upper_bound(address);
  if (at == ranges.begin()) return nullptr;
  Range* range = std::prev(at)->second.get();
  return address - range->base < range->bytes ? range : nullptr;
}

Range* add_range(RangeKind kind, uint64_t base, uint64_t bytes, Device* device, Context* context) {
  auto range = std::make_unique<Range>();
  range->kind = kind;
  range->base = base;
  range->bytes = range->asked = bytes;
  range->device = device->index;
  range->context = context;
  range->id = driver().next_id++;
  return (driver().ranges[base] = std::move(range)).get();
}

bool find_extent(uint64_t address, Extent* extent) {
  Range* range = find_range(address);
  if (range == nullptr) return false;
  *extent = {range, range->base, range->asked};
  switch (range->kind) {
    case RangeKind::kBlock: {
      Piece piece;
      if (!Arena::find(*range->block, address, &piece)) return false;
      extent->base = piece.base;
      extent->bytes = piece.bytes;
      return true;
    }
    case RangeKind::kPool:
      return find_pool_extent(range, address, extent);
    case RangeKind::kGraph:
      return find_graph_extent(range, address, extent);
    case RangeKind::kReservation:
      return find_mapping(range, address, extent, nullptr, nullptr, nullptr);
    default:
      return true;
  }
}

uint64_t take_linear(Context* context, Arena* arena, uint64_t bytes, uint64_t alignment) {
  if (bytes > kLargestPacked) {
    Range* range = take_pages(context, arena, RangeKind::kLinear, bytes);
    if (range == nullptr) return 0;
    range->storage = std::make_shared<Storage>();
    return range->base;
  }
  if (const uint64_t address = arena->take(bytes, alignment)) return address;
  Range* range = take_pages(context, arena, RangeKind::kBlock, kPage);
  if (range == nullptr) return 0;
  range->block = arena->add(range->base);
  range->storage = range->block->storage;
  return arena->take(bytes, alignment);
}

bool free_linear(uint64_t address) {
  Range* range = find_range(address);
  if (range == nullptr) return false;
  if (range->kind == RangeKind::kLinear && range->base == address) {
    free_range(range);
    return true;
  }
  bool empty = false;
  if (range->kind != RangeKind::kBlock || !Arena::free(range->block, address, &empty)) return false;
  if (empty) {
    range->arena->remove(range->block);
    free_range(range);
  }
  return true;
}

void free_range(Range* range) {
  give_back(range);
  switch (range->kind) {
    case RangeKind::kManaged:
    case RangeKind::kHost:
      munmap(reinterpret_cast<void*>(range->base), range->bytes);
      break;
    case RangeKind::kRegistered:
      break;
    default:
      space_of(range->base).give(range->base, range->bytes);
      break;
  }
  driver().ranges.erase(range->base);
}

void free_context_memory(Context* context) {
  auto& ranges = driver().ranges;
  for (auto at = ranges.begin(); at != ranges.end();) {
    Range* range = (at++)->second.get();
    const bool of_device = range->kind == RangeKind::kPool || range->kind == RangeKind::kGraph ||
                           range->kind == RangeKind::kReservation;
    if (range->context == context && !of_device) free_range(range);
  }
  for (Arena* arena : {&context->linear, &context->low, &context->module, &context->array})
    arena->clear();
}

Range* make_managed(Context* context, uint64_t bytes) {
  const uint64_t rounded = round_up(bytes, 4096);
  void* at = rounded < bytes ? MAP_FAILED
                             : mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  Range* range = add_range(RangeKind::kManaged, reinterpret_cast<uint64_t>(at), rounded,
                           context->device, context);
  range->asked = bytes;
  return range;
}

void touch_managed(Range* range, uint64_t address, uint64_t bytes) {
  Context* context = current_context();
  if (context == nullptr || bytes == 0) return;
  Device* device = context->device;
  if (!device->managed_used) {
    device->managed_used = true;
    driver().process->use_managed(device->index);
  }
  if (range->device != device->index && range->charged != 0)
    return;  // stays where it was first used
  range->device = device->index;
  const uint64_t first = (address - range->base) / kPage,
                 last = (address + bytes - 1 - range->base) / kPage;
  uint64_t moved = 0;
  std::vector<uint64_t> pages;
  for (uint64_t page = first; page <= last; ++page) {
    if (range->touched.count(page) != 0) continue;
    moved += std::min(kPage, round_up(range->asked - page * kPage, kManagedGrain));
    pages.push_back(page);
  }
  // Where the device is full the pages stay on the host: managed memory may exceed it.
  if (moved == 0 || !driver().process->take(device->index, 0, moved)) return;
  range->charged += moved;
  range->touched.insert(pages.begin(), pages.end());
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuMemAlloc_v2(CUdeviceptr* out, std::size_t bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = 0;
  const CUresult code = allocate(call, &call.context()->linear, bytes, &address);
  if (code == CUDA_SUCCESS) *out = address;
  return code;
}

CUresult cuMemAlloc(CUdeviceptr_v1* out, unsigned int bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = 0;
  const CUresult code = allocate(call, &call.context()->low, bytes, &address);
  if (code == CUDA_SUCCESS) *out = static_cast<CUdeviceptr_v1>(address);
  return code;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr* out, std::size_t* pitch, std::size_t width,
                            std::size_t height, unsigned int element) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr || pitch == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = 0, row = 0;
  const CUresult code =
      allocate_pitch(call, &call.context()->linear, width, height, element, &row, &address);
  if (code != CUDA_SUCCESS) return code;
  *out = address;
  *pitch = row;
  return CUDA_SUCCESS;
}

CUresult cuMemAllocPitch(CUdeviceptr_v1* out, unsigned int* pitch, unsigned int width,
                         unsigned int height, unsigned int element) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr || pitch == nullptr) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = 0, row = 0;
  const CUresult code =
      allocate_pitch(call, &call.context()->low, width, height, element, &row, &address);
  if (code != CUDA_SUCCESS) return code;
  *out = static_cast<CUdeviceptr_v1>(address);
  *pitch = static_cast<unsigned int>(row);
  return CUDA_SUCCESS;
}

CUresult cuMemAllocManaged(CUdeviceptr* out, std::size_t bytes, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const unsigned int attach = flags & ~static_cast<unsigned int>(CU_MEM_ATTACH_SINGLE);
  if (out == nullptr || bytes == 0 ||
      (attach != CU_MEM_ATTACH_GLOBAL && attach != CU_MEM_ATTACH_HOST)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (call.forbidden_in_capture()) return call.code();
  const Range* range = make_managed(call.context(), bytes);
  if (range == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = range->base;
  return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  Call call(__func__);
  return call.failed() ? call.code() : free_address(call, address);
}

CUresult cuMemFree(CUdeviceptr_v1 address) {
  Call call(__func__);
  return call.failed() ? call.code() : free_address(call, address);
}

CUresult cuMemGetInfo_v2(std::size_t* free_bytes, std::size_t* total_bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (free_bytes == nullptr || total_bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *free_bytes = free_now(*call.device());
  *total_bytes = usable(*call.device());
  return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(unsigned int* free_bytes, unsigned int* total_bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (free_bytes == nullptr || total_bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *free_bytes = clipped(free_now(*call.device()));
  *total_bytes = clipped(usable(*call.device()));
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address) {
  Call call(__func__);
  if (call.failed()) return call.code();
  uint64_t found = 0, size = 0;
  const CUresult code = range_of(address, &found, &size);
  if (code != CUDA_SUCCESS) return code;
  if (base != nullptr) *base = found;
  if (bytes != nullptr) *bytes = size;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr_v1* base, unsigned int* bytes, CUdeviceptr_v1 address) {
  Call call(__func__);
  if (call.failed()) return call.code();
  uint64_t found = 0, size = 0;
  const CUresult code = range_of(address, &found, &size);
  if (code != CUDA_SUCCESS) return code;
  if (base != nullptr) *base = static_cast<CUdeviceptr_v1>(found);
  if (bytes != nullptr) *bytes = clipped(size);
  return CUDA_SUCCESS;
}
