#include "driver/pool.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver/graph.h"
#include "driver/objects.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kGrowth = 32 * kMiB;

void settle_late_frees(Pool* pool) {
  pool->used -= pool->late;
  pool->late = 0;
}

PoolChunk* add_chunk(Pool* pool, uint64_t bytes) {
  const uint64_t base = driver().space.take(bytes, kPage);
  if (base == 0) return nullptr;
  Range* range = add_range(RangeKind::kPool, base, bytes, pool->device, nullptr);
  range->storage = std::make_shared<Storage>();
  auto chunk = std::make_unique<PoolChunk>();
  chunk->pool = pool;
  chunk->range = range;
  chunk->free[0] = bytes;
  chunk->longest = bytes;
  range->chunk = chunk.get();
  pool->reserved += bytes;
  pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
  return (pool->chunks[base] = std::move(chunk)).get();
}

// Forgets a chunk; its pages stay taken from the device.
void remove_chunk(PoolChunk* chunk) {
  Pool* pool = chunk->pool;
  Range* range = chunk->range;
  pool->reserved -= range->bytes;
  const uint64_t base = range->base;
  free_range(range);
  pool->chunks.erase(base);
}

// Chunks whose pages may serve an allocation of `bytes` elsewhere, and how much they have.
uint64_t movable(Pool* pool, uint64_t bytes, bool unsettled, std::vector<PoolChunk*>* chunks) {
  uint64_t found = 0;
  for (auto& [base, chunk] : pool->chunks) {
    if (found >= bytes) break;
    if (!chunk->used.empty() || !(chunk->settled || unsettled)) continue;
    chunks->push_back(chunk.get());
    found += chunk->range->bytes;
  }
  return found;
}

// One chunk of `bytes`, out of free chunks and of new pages. Null where there is no room.
PoolChunk* grow(Pool* pool, uint64_t bytes, bool unsettled) {
  std::vector<PoolChunk*> moved;
  const uint64_t at_hand = movable(pool, bytes, unsettled, &moved);
  const uint64_t fresh = at_hand >= bytes ? 0 : bytes - at_hand;
  const uint64_t limit = pool->props.maxSize;
  if (limit != 0 && pool->reserved + fresh > round_up(limit, kGrowth)) return nullptr;
  if (fresh != 0 && !driver().process->take(pool->device->index, fresh)) return nullptr;
  for (PoolChunk* chunk : moved) remove_chunk(chunk);
  if (at_hand > bytes) {
    if (PoolChunk* rest = add_chunk(pool, at_hand - bytes)) rest->settled = true;
  }
  return add_chunk(pool, bytes);
}

uint64_t place(PoolChunk* chunk, uint64_t bytes, uint64_t asked) {
  if (chunk->longest < bytes) return 0;
  uint64_t longest = 0;
  for (auto at = chunk->free.begin(); at != chunk->free.end(); ++at) {
    const uint64_t begin = at->first, end = at->second;
    if (end - begin < bytes) {
      longest = std::max(longest, end - begin);
      continue;
    }
    chunk->free.erase(at);
    if (begin + bytes < end) chunk->free[begin + bytes] = end;
    chunk->used[begin] = asked;
    chunk->settled = false;
    return chunk->range->base + begin;
  }
  chunk->longest = longest;
  return 0;
}

void put_back(PoolChunk* chunk, uint64_t offset, uint64_t bytes) {
  uint64_t begin = offset, end = offset + bytes;
  auto next = chunk->free.upper_bound(begin);
  if (next != chunk->free.end() && next->first == end) {
    end = next->second;
    next = chunk->free.erase(next);
  }
  if (next != chunk->free.begin() && std::prev(next)->second == begin) {
    begin = std::prev(next)->first;
    chunk->free.erase(std::prev(next));
  }
  chunk->free[begin] = end;
  chunk->longest = std::max(chunk->longest, end - begin);
}

// Gives free chunks back to the device until the pool holds no more than `keep`.
void shrink(Pool* pool, uint64_t keep) {
  uint64_t given = 0;
  if (!pool->chunks.empty()) look();
  for (auto at = pool->chunks.begin(); at != pool->chunks.end();) {
    PoolChunk* chunk = (at++)->second.get();
    if (!chunk->used.empty() || !are_done(chunk->busy)) continue;
    chunk->settled = true;
    if (pool->reserved <= keep) continue;
    given += chunk->range->bytes;
    remove_chunk(chunk);
  }
  if (given != 0) driver().process->give(pool->device->index, given);
}

bool is_idle(const Pool& pool) {
  return std::all_of(pool.chunks.begin(), pool.chunks.end(),
                     [](const auto& entry) { return entry.second->used.empty(); });
}

void bury_if_done(Pool* pool) {
  if (!pool->destroyed || !is_idle(*pool)) return;
  shrink(pool, 0);
  if (pool->chunks.empty()) pool->device->pools.erase(pool);
}

Pool* make_pool(Device* device, const CUmemPoolProps& props) {
  auto* pool = new Pool();
  pool->device = device;
  pool->props = props;
  pool->access[device->index] = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  device->pools.insert(pool);
  return pool;
}

CUmemPoolProps plain_props(int ordinal) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, ordinal};
  return props;
}

CUresult allocate_from_pool(Pool* pool, uint64_t bytes, uint64_t* address) {
  settle_late_frees(pool);
  const uint64_t rounded = round_up(bytes, kUnit);
  if (rounded < bytes || bytes > (uint64_t{1} << 46)) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = 0;
  for (auto at = pool->chunks.begin(); *address == 0 && at != pool->chunks.end(); ++at) {
    *address = place(at->second.get(), rounded, bytes);
  }
  if (*address == 0) {
    const uint64_t size = round_up(rounded, kGrowth);
    PoolChunk* chunk = grow(pool, size, false);
    if (chunk == nullptr) chunk = grow(pool, size, true);
    if (chunk == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = place(chunk, rounded, bytes);
  }
  pool->used += bytes;
  pool->used_high = std::max(pool->used_high, pool->used);
  return CUDA_SUCCESS;
}

CUresult allocate(Call& call, CUdeviceptr* out, uint64_t bytes, Pool* pool, CUstream handle,
                  bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (out == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (pool == nullptr) pool = stream->context->device->current_pool;
  if (pool == nullptr || pool->imported) return CUDA_ERROR_INVALID_VALUE;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      Node* node = add_alloc_node(stream->capture->graph, pool->device, bytes, stream->tips);
      append_captured(stream, node);
      *out = node->address;
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  uint64_t address = 0;
  code = allocate_from_pool(pool, bytes, &address);
  if (code != CUDA_SUCCESS) return code;
  *out = address;
  return CUDA_SUCCESS;
}

CUresult free_async(Call& call, CUdeviceptr address, CUstream handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (address == 0) return CUDA_ERROR_INVALID_VALUE;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      Node* node = add_free_node(stream->capture->graph, address);
      if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
      append_captured(stream, node);
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  Range* range = find_range(address);
  if (range == nullptr) return CUDA_ERROR_INVALID_VALUE;
  bool freed = false;
  if (range->kind == RangeKind::kPool)
    freed = free_pool_address(range, address, work_before(*stream), false);
  else if (range->kind == RangeKind::kGraph)
    freed = free_graph_address(range, address);
  else if (range->kind == RangeKind::kExternal && !range->object)
    free_range(range), freed = true;
  return freed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

Pool* pool_at(const CUmemLocation* location, CUmemAllocationType type, Device** device,
              CUresult* code) {
  *code = CUDA_ERROR_INVALID_VALUE;
  if (location == nullptr || location->type != CU_MEM_LOCATION_TYPE_DEVICE) return nullptr;
  *device = driver().device(location->id);
  if (*device == nullptr) {
    *code = CUDA_ERROR_INVALID_DEVICE;
    return nullptr;
  }
  if (type != CU_MEM_ALLOCATION_TYPE_PINNED) return nullptr;
  if ((*device)->default_pool == nullptr) make_default_pool(*device);
  *code = CUDA_SUCCESS;
  return (*device)->current_pool;
}

CUresult set_current(CUdevice ordinal, CUmemoryPool handle) {
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || pool->device != device || pool->imported) return CUDA_ERROR_INVALID_VALUE;
  device->current_pool = pool;
  return CUDA_SUCCESS;
}

CUresult device_pool(CUdevice ordinal, CUmemoryPool* out, Pool* Device::*which) {
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device->default_pool == nullptr) make_default_pool(device);
  *out = reinterpret_cast<CUmemoryPool>(device->*which);
  return CUDA_SUCCESS;
}

}  // namespace

void make_default_pool(Device* device) {
  device->default_pool = make_pool(device, plain_props(device->ordinal));
  device->default_pool->is_default = true;
  device->current_pool = device->default_pool;
}

void release_pools(Device* device) {
  const std::set<Pool*> pools = device->pools;
  for (Pool* pool : pools) {
    settle_late_frees(pool);
    shrink(pool, pool->threshold);
    bury_if_done(pool);
  }
}

void forget_pool_memory(Device* device) {
  for (Pool* pool : device->pools) {
    uint64_t bytes = 0;
    while (!pool->chunks.empty()) {
      bytes += pool->chunks.begin()->second->range->bytes;
      remove_chunk(pool->chunks.begin()->second.get());
    }
    pool->used = pool->late = 0;
    if (bytes != 0) driver().process->give(device->index, bytes);
  }
}

bool find_pool_extent(Range* range, uint64_t address, Extent* extent) {
  const auto& used = range->chunk->used;
  auto at = used.upper_bound(address - range->base);
  if (at == used.begin()) return false;
  --at;
  extent->base = range->base + at->first;
  extent->bytes = at->second;
  return address - extent->base < round_up(at->second, kUnit);
}

bool free_pool_address(Range* range, uint64_t address, const Tickets& before, bool at_once) {
  PoolChunk* chunk = range->chunk;
  const auto at = chunk->used.find(address - range->base);
  if (at == chunk->used.end()) return false;
  Pool* pool = chunk->pool;
  settle_late_frees(pool);
  const uint64_t bytes = at->second, offset = at->first;
  chunk->used.erase(at);
  for (const Ticket& ticket : before) add_ticket(&chunk->busy, ticket);
  put_back(chunk, offset, round_up(bytes, kUnit));
  if (at_once)
    pool->late += bytes;
  else
    pool->used -= bytes;
  return true;
}

Pool* pool_of(Range* range) { return range->chunk->pool; }

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuMemAllocAsync(CUdeviceptr* out, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : allocate(call, out, bytes, nullptr, stream, false);
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr* out, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : allocate(call, out, bytes, nullptr, stream, true);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr* out, std::size_t bytes, CUmemoryPool handle,
                                 CUstream stream) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  return pool == nullptr ? CUDA_ERROR_INVALID_VALUE
                         : allocate(call, out, bytes, pool, stream, false);
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* out, std::size_t bytes, CUmemoryPool handle,
                                      CUstream stream) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  return pool == nullptr ? CUDA_ERROR_INVALID_VALUE
                         : allocate(call, out, bytes, pool, stream, true);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : free_async(call, address, stream, false);
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : free_async(call, address, stream, true);
}

CUresult cuMemPoolCreate(CUmemoryPool* out, const CUmemPoolProps* props) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (out == nullptr || props == nullptr || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  const bool host = props->location.type == CU_MEM_LOCATION_TYPE_HOST ||
                    props->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
  if (host) return CUDA_ERROR_NOT_SUPPORTED;
  if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  Device* device = driver().device(props->location.id);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const bool shareable = props->handleTypes == CU_MEM_HANDLE_TYPE_NONE ||
                         props->handleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  if (!shareable) return CUDA_ERROR_NOT_SUPPORTED;
  *out = reinterpret_cast<CUmemoryPool>(make_pool(device, *props));
  return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || pool->is_default) return CUDA_ERROR_INVALID_VALUE;
  Device* device = pool->device;
  if (device->current_pool == pool) device->current_pool = device->default_pool;
  pool->mark = kDead;
  pool->destroyed = true;
  if (pool->object) {
    const State::Guard guard(driver().state);
    release_object(driver().process, pool->object);
  }
  bury_if_done(pool);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool handle, std::size_t keep) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  settle_late_frees(pool);
  shrink(pool, keep);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* pool = live<Pool>(handle);
  if (pool == nullptr || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  const auto put = [value](uint64_t v) {
    *static_cast<cuuint64_t*>(value) = v;
    return CUDA_SUCCESS;
  };
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      *static_cast<int*>(value) = pool->reuse[attribute - 1];
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      return put(pool->threshold);
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      return put(pool->reserved);
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      return put(pool->reserved_high);
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      return put(pool->used);
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      return put(pool->used_high);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      pool->reuse[attribute - 1] = *static_cast<int*>(value) != 0;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      pool->threshold = *static_cast<cuuint64_t*>(value);
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      if (*static_cast<cuuint64_t*>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
      if (attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
        pool->reserved_high = pool->reserved;
      else
        pool->used_high = pool->used;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle,
                            CUmemLocation* location) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* pool = live<Pool>(handle);
  if (pool == nullptr || flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Device* device =
      location->type == CU_MEM_LOCATION_TYPE_DEVICE ? driver().device(location->id) : nullptr;
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *flags = pool->access[device->index];
  return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc* map, std::size_t count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || (map == nullptr && count != 0)) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) {
    const CUmemLocation& where = map[i].location;
    const Device* device =
        where.type == CU_MEM_LOCATION_TYPE_DEVICE ? driver().device(where.id) : nullptr;
    if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
    const bool own = device == pool->device;
    if (own && map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_INVALID_VALUE;
    pool->access[device->index] = map[i].flags;
  }
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* out, CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : device_pool(device, out, &Device::default_pool);
}

CUresult cuDeviceGetMemPool(CUmemoryPool* out, CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : device_pool(device, out, &Device::current_pool);
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : set_current(device, pool);
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool* out, CUmemLocation* location,
                                CUmemAllocationType type) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Device* device = nullptr;
  if (pool_at(location, type, &device, &code) == nullptr) return code;
  return device_pool(device->ordinal, out, &Device::default_pool);
}

CUresult cuMemGetMemPool(CUmemoryPool* out, CUmemLocation* location, CUmemAllocationType type) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Device* device = nullptr;
  if (pool_at(location, type, &device, &code) == nullptr) return code;
  return device_pool(device->ordinal, out, &Device::current_pool);
}

CUresult cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type, CUmemoryPool pool) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Device* device = nullptr;
  if (pool_at(location, type, &device, &code) == nullptr) return code;
  return set_current(device->ordinal, pool);
}
