// Memory of other processes and other interfaces: cuIpc*, external memory, exported pools.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "driver/pool.h"
#include "driver/vmm.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kIpcMagic = 0x4350492d4d495300;

// What a CUipcMemHandle holds.
struct IpcTicket {
  uint64_t magic;
  ObjectId object;
  uint64_t offset;  // of the allocation in the object's pages
  uint64_t bytes;   // of the allocation
};
static_assert(sizeof(IpcTicket) <= sizeof(CUipcMemHandle));

// What a CUmemPoolPtrExportData holds.
struct PoolTicket {
  uint64_t magic;
  ObjectId pool;
  uint64_t bytes;
};
static_assert(sizeof(PoolTicket) <= sizeof(CUmemPoolPtrExportData));

struct External {
  static constexpr Mark kMark = kExternal;
  Mark mark = kExternal;
  Device* device = nullptr;
  ObjectId object;
  uint64_t bytes = 0;
  std::shared_ptr<Storage> storage;
};

Device* device_of(const ObjectRow& row) {
  for (auto& device : driver().devices) {
    if (device->index == static_cast<int>(row.device)) return device.get();
  }
  return nullptr;
}

bool share(Range* range) {
  if (range->object) return true;
  const State::Guard guard(driver().state);
  const ObjectId id =
      make_object(driver().process, ObjectKind::kIpc, range->device, range->bytes, true);
  if (!id) return false;
  range->object = id;
  range->storage = open_shared_storage(id, range->bytes, true, range->storage.get());
  if (range->block != nullptr) range->block->storage = range->storage;
  return true;
}

CUresult get_handle(CUipcMemHandle* out, uint64_t address) {
  Extent extent;
  if (out == nullptr || !find_extent(address, &extent)) return CUDA_ERROR_INVALID_VALUE;
  const bool linear =
      extent.range->kind == RangeKind::kLinear || extent.range->kind == RangeKind::kBlock;
  if (!linear) return CUDA_ERROR_INVALID_VALUE;
  if (!share(extent.range)) return CUDA_ERROR_OUT_OF_MEMORY;
  const IpcTicket ticket{kIpcMagic, extent.range->object, extent.base - extent.range->base,
                         extent.bytes};
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &ticket, sizeof ticket);
  return CUDA_SUCCESS;
}

Range* opened_range(ObjectId id) {
  for (auto& [base, range] : driver().ranges) {
    if (range->kind == RangeKind::kIpc && range->object.index == id.index &&
        range->object.nonce == id.nonce) {
      return range.get();
    }
  }
  return nullptr;
}

CUresult open_handle(Call& call, CUdeviceptr* out, const CUipcMemHandle& handle,
                     unsigned int flags) {
  IpcTicket ticket;
  std::memcpy(static_cast<void*>(&ticket), &handle, sizeof ticket);
  if (out == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
    return CUDA_ERROR_INVALID_VALUE;
  if (ticket.magic != kIpcMagic) return CUDA_ERROR_INVALID_HANDLE;
  if (call.forbidden_in_capture()) return call.code();
  Range* range = opened_range(ticket.object);
  if (range == nullptr) {
    Device* device = nullptr;
    uint64_t bytes = 0;
    {
      const State::Guard guard(driver().state);
      const ObjectRow* row = find_object(driver().state, ticket.object);
      if (row == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      const bool own = row->maker == driver().process->index() &&
                       row->maker_generation == driver().process->generation();
      if (own) return CUDA_ERROR_INVALID_CONTEXT;  // a process cannot open its own memory
      device = device_of(*row);
      bytes = row->bytes;
      if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
      if (!hold_object(driver().process, ticket.object)) return CUDA_ERROR_OUT_OF_MEMORY;
    }
    const uint64_t base = driver().space.take(bytes, kPage);
    range = add_range(RangeKind::kIpc, base, bytes, device, call.context());
    range->object = ticket.object;
    range->storage = open_shared_storage(ticket.object, bytes, false, nullptr);
  }
  range->opened++;
  *out = range->base + ticket.offset;
  return CUDA_SUCCESS;
}

CUresult close_handle(uint64_t address) {
  Range* range = find_range(address);
  if (range == nullptr || range->kind != RangeKind::kIpc) return CUDA_ERROR_INVALID_VALUE;
  if (--range->opened == 0) free_range(range);
  return CUDA_SUCCESS;
}

// Memory behind a descriptor that is not ours: the file itself stands for it.
CUresult import_foreign(Call& call, int fd, uint64_t bytes, External* external) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) < bytes)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t pages = round_up(bytes, kPage);
  const uint64_t key =
      static_cast<uint64_t>(info.st_dev) * 0x9e3779b97f4a7c15 ^ static_cast<uint64_t>(info.st_ino);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return CUDA_ERROR_INVALID_VALUE;
  external->storage = std::make_shared<Storage>(static_cast<std::byte*>(at), bytes);
  const State::Guard guard(driver().state);
  external->object = hold_external(driver().process, call.device()->index, pages, key);
  return external->object ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult import_own(ObjectId id, uint64_t bytes, External* external) {
  uint64_t size = 0;
  {
    const State::Guard guard(driver().state);
    const ObjectRow* row = find_object(driver().state, id);
    if (row == nullptr || row->bytes < bytes) return CUDA_ERROR_INVALID_VALUE;
    size = row->bytes;
    if (!hold_object(driver().process, id)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  external->object = id;
  external->storage = open_shared_storage(id, size, false, nullptr);
  return CUDA_SUCCESS;
}

ObjectId own_object(int fd) {
  const State::Guard guard(driver().state);
  return object_of_descriptor(driver().state, fd);
}

CUresult import_external(Call& call, CUexternalMemory* out,
                         const CUDA_EXTERNAL_MEMORY_HANDLE_DESC& desc) {
  if (desc.type != CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD) return CUDA_ERROR_NOT_SUPPORTED;
  if (desc.size == 0 || (desc.flags & ~CUDA_EXTERNAL_MEMORY_DEDICATED) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  auto external = std::make_unique<External>();
  external->device = call.device();
  external->bytes = desc.size;
  const ObjectId own = own_object(desc.handle.fd);
  const CUresult code = own ? import_own(own, desc.size, external.get())
                            : import_foreign(call, desc.handle.fd, desc.size, external.get());
  if (code != CUDA_SUCCESS) return code;
  close(desc.handle.fd);  // a successful import makes the descriptor the driver's
  *out = reinterpret_cast<CUexternalMemory>(external.release());
  return CUDA_SUCCESS;
}

CUresult map_external(Call& call, CUdeviceptr* out, External* external,
                      const CUDA_EXTERNAL_MEMORY_BUFFER_DESC& desc) {
  const bool inside =
      desc.size != 0 && desc.offset < external->bytes && desc.size <= external->bytes - desc.offset;
  if (!inside || desc.flags != 0) return CUDA_ERROR_INVALID_VALUE;
  {
    const State::Guard guard(driver().state);
    if (!hold_object(driver().process, external->object)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const uint64_t bytes = round_up(desc.size, kPage);
  const uint64_t base = driver().space.take(bytes, kPage);
  Range* range = add_range(RangeKind::kExternal, base, bytes, external->device, call.context());
  range->asked = desc.size;
  range->object = external->object;
  range->storage = external->storage;
  range->storage_offset = desc.offset;
  *out = base;
  return CUDA_SUCCESS;
}

CUresult export_pool(Pool* pool, int* out) {
  if (pool->props.handleTypes != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  const State::Guard guard(driver().state);
  if (!pool->object)
    pool->object = make_object(driver().process, ObjectKind::kPool, pool->device->index, 0, false);
  *out = pool->object ? export_object(driver().process, pool->object) : -1;
  return *out >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

CUresult import_pool(int fd, CUmemoryPool* out) {
  const State::Guard guard(driver().state);
  const ObjectId id = object_of_descriptor(driver().state, fd);
  const ObjectRow* row = id ? find_object(driver().state, id) : nullptr;
  if (row == nullptr || row->kind != ObjectKind::kPool) return CUDA_ERROR_INVALID_VALUE;
  Device* device = device_of(*row);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (!hold_object(driver().process, id)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto* pool = new Pool();
  pool->device = device;
  pool->imported = true;
  pool->object = id;
  *out = reinterpret_cast<CUmemoryPool>(pool);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

// --- IPC

CUresult cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address) {
  Call call(__func__);
  return call.failed() ? call.code() : get_handle(out, address);
}

CUresult cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle handle, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : open_handle(call, out, handle, flags);
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* out, CUipcMemHandle handle, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : open_handle(call, out, handle, flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  Call call(__func__);
  return call.failed() ? call.code() : close_handle(address);
}

// --- external memory

CUresult cuImportExternalMemory(CUexternalMemory* out,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : import_external(call, out, *desc);
}

CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr* out, CUexternalMemory memory,
                                         const CUDA_EXTERNAL_MEMORY_BUFFER_DESC* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* external = live<External>(memory);
  if (external == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : map_external(call, out, external, *desc);
}

CUresult cuDestroyExternalMemory(CUexternalMemory memory) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* external = live<External>(memory);
  if (external == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  external->mark = kDead;
  external->storage.reset();
  const State::Guard guard(driver().state);
  release_object(driver().process, external->object);
  return CUDA_SUCCESS;
}

// --- pools

CUresult cuMemPoolExportToShareableHandle(void* out, CUmemoryPool handle,
                                          CUmemAllocationHandleType type,
                                          unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return export_pool(pool, static_cast<int*>(out));
}

CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool* out, void* handle,
                                            CUmemAllocationHandleType type,
                                            unsigned long long flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return import_pool(static_cast<int>(reinterpret_cast<intptr_t>(handle)), out);
}

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData* out, CUdeviceptr address) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Extent extent;
  if (out == nullptr || !find_extent(address, &extent) || extent.range->kind != RangeKind::kPool) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Pool* pool = pool_of(extent.range);
  if (!pool->object) return CUDA_ERROR_INVALID_VALUE;
  const PoolTicket ticket{kIpcMagic, pool->object, extent.bytes};
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &ticket, sizeof ticket);
  return CUDA_SUCCESS;
}

// The memory stays the exporter's; what is written here is not seen there.
CUresult cuMemPoolImportPointer(CUdeviceptr* out, CUmemoryPool handle,
                                CUmemPoolPtrExportData* data) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* pool = live<Pool>(handle);
  if (pool == nullptr || out == nullptr || data == nullptr || !pool->imported)
    return CUDA_ERROR_INVALID_VALUE;
  PoolTicket ticket;
  std::memcpy(static_cast<void*>(&ticket), data, sizeof ticket);
  if (ticket.magic != kIpcMagic || ticket.pool.nonce != pool->object.nonce)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t bytes = round_up(ticket.bytes, kPage);
  const uint64_t base = driver().space.take(bytes, kPage);
  Range* range = add_range(RangeKind::kExternal, base, bytes, pool->device, call.context());
  range->asked = ticket.bytes;
  range->storage = std::make_shared<Storage>();
  *out = base;
  return CUDA_SUCCESS;
}
