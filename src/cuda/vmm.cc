// Virtual memory management: physical memory lives while a handle or a mapping of it does.
//
// Exported memory is charged to a shared object of the region instead of this process, so that it
// stays charged, once, while any process of the job holds it. A file descriptor does not say what
// it stands for, so the exporter marks it (sys/descriptor_mark.h) with the number of the object.
// What comes without a mark is of another job, and is charged when it is mapped.
#include "cuda/state.h"
#include "sys/clock.h"
#include "sys/descriptor_mark.h"
#include "sys/memory.h"
#include "sys/self.h"

SM_DRIVER(cuMemGetAllocationPropertiesFromHandle);

namespace softmig::cuda {
namespace {

// Record of a handle: bytes (0: an import not yet mapped), detail = references | mappings << 32.
constexpr uint64_t kReference = 1, kMapping = uint64_t{1} << 32;

// Every export of this process has a key of its own.
uint64_t next_object_key() {
  static constinit std::atomic<uint64_t> count{0};
  const auto pid = static_cast<uint64_t>(sys::pid());
  return pid << 40 ^ sys::monotonic_ns() ^ count.fetch_add(1, std::memory_order_relaxed) << 56;
}

void give_back(const Record& record) {
  if (record.object >= 0) {
    slice().drop_object(record.object);
  } else {
    slice().release(record.device, record.bytes);
  }
}

// One more reference or mapping of a handle.
void count(uint64_t handle, uint64_t kind) {
  tables.handles.update(handle, [&](Record& record) {
    record.detail += kind;
    return true;
  });
}

// One reference or mapping less, before the driver hears of it: with the last one the record is
// taken out, since the handle may be somebody else's the moment after.
struct Uncounted {
  uint64_t handle = 0;
  Record record;  // device -1: not one of ours
  bool is_last() const { return record.device >= 0 && record.detail == 0; }
};

Uncounted uncount(uint64_t handle, uint64_t kind) {
  Uncounted done{handle, {}};
  tables.handles.update(handle, [&](Record& record) {
    record.detail -= kind;
    done.record = record;
    return record.detail != 0;
  });
  return done;
}

// The driver did it, or refused.
void finish(const Uncounted& done, uint64_t kind, CUresult result) {
  if (result == CUDA_SUCCESS) {
    if (done.is_last()) give_back(done.record);
  } else if (done.is_last()) {
    tables.handles.insert(done.handle, done.record);
    count(done.handle, kind);
  } else {
    count(done.handle, kind);
  }
}

// The mappings that lie side by side in a range: one call may undo several. Taken out at once, put
// back if the driver refuses.
class Unmapping {
 public:
  Unmapping(uint64_t address, uint64_t bytes) : address_(address) {
    Record mapping;
    uint64_t count = 0, end = 0;
    for (; end < bytes && tables.mappings.find(address + end, &mapping); end += mapping.bytes) {
      count++;
    }
    list_ = count <= kFew ? few_ : static_cast<Undone*>(sys::map_pages(count * sizeof(Undone)));
    if (list_ == nullptr) return;
    size_ = count;
    for (uint64_t at = 0; count_ < count && tables.mappings.take(address + at, &mapping);
         at += mapping.bytes) {
      list_[count_++] = {mapping, uncount(mapping.detail, kMapping)};
    }
  }
  ~Unmapping() {
    if (list_ != few_) sys::unmap_pages(list_, size_ * sizeof(Undone));
  }
  Unmapping(const Unmapping&) = delete;
  Unmapping& operator=(const Unmapping&) = delete;

  void finish(CUresult result) {
    uint64_t address = address_;
    for (uint64_t i = 0; i < count_; i++) {
      cuda::finish(list_[i].handle, kMapping, result);
      if (result != CUDA_SUCCESS) tables.mappings.insert(address, list_[i].mapping);
      address += list_[i].mapping.bytes;
    }
  }

 private:
  static constexpr uint64_t kFew = 4;
  struct Undone {
    Record mapping;
    Uncounted handle;
  };
  uint64_t address_, count_ = 0, size_ = 0;
  Undone few_[kFew];
  Undone* list_;
};

int device_of_handle(CUmemGenericAllocationHandle handle) {
  CUmemAllocationProp properties = {};
  if (next_cuMemGetAllocationPropertiesFromHandle(&properties, handle) != CUDA_SUCCESS ||
      properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return -1;
  }
  return device_of(properties.location.id);
}

// Joins the object that the descriptor is marked with; -1 if it has no mark of this job.
int object_of_descriptor(int descriptor) {
  uint32_t mark = 0, pid = 0;
  if (!sys::read_mark(descriptor, &mark, &pid)) return -1;
  return slice().hold_marked_object(mark, pid);
}

void keep_import(CUmemGenericAllocationHandle handle, int object) {
  const int device = device_of_handle(handle);
  if (device < 0) {
    if (object >= 0) slice().drop_object(object);
    return;
  }
  const uint64_t bytes = object >= 0 ? slice().object_bytes(object) : 0;
  bool joined = false;
  tables.handles.update_or_insert(handle, [&](Record& record) {
    // The driver may give the same handle for the same memory: it is held once.
    if (record.device < 0) {
      record = {bytes, 0, 0, static_cast<int16_t>(device), static_cast<int16_t>(object)};
      joined = true;
    }
    record.detail += kReference;
    return true;
  });
  if (!joined && object >= 0) slice().drop_object(object);
}

enum class ImportCharge { kNone, kNew, kRefused };

// The size of an import from outside of the job is known when it is mapped.
ImportCharge charge_import(CUmemGenericAllocationHandle handle, uint64_t bytes) {
  Record record;
  if (!tables.handles.find(handle, &record) || record.bytes != 0) return ImportCharge::kNone;
  if (!reserve(record.device, bytes)) return ImportCharge::kRefused;
  bool taken = false;
  tables.handles.update(handle, [&](Record& kept) {
    taken = kept.bytes == 0;
    if (taken) kept.bytes = bytes;
    return true;
  });
  if (taken) return ImportCharge::kNew;
  slice().release(record.device, bytes);
  return ImportCharge::kNone;
}

// The driver did not map it after all.
void undo_import(CUmemGenericAllocationHandle handle) {
  Record undone;
  const bool known = tables.handles.update(handle, [&](Record& record) {
    undone = record;
    record.bytes = 0;
    return true;
  });
  if (known) give_back(undone);
}

// Moves the charge to an object that others can hold; returns its number, -1 if that cannot be
// done.
int share(CUmemGenericAllocationHandle handle) {
  int object = -1;
  tables.handles.update(handle, [&](Record& record) {
    if (record.object < 0 && record.bytes != 0) {
      record.object =
          static_cast<int16_t>(slice().make_object(next_object_key(), record.device, record.bytes));
    }
    object = record.object;
    return true;
  });
  return object;
}

// Tiles of a sparse array keep their memory alive until they are unmapped, which nobody says of one
// tile at a time: a handle that was mapped so is counted until this process ends.
void pin_tiles(const CUarrayMapInfo* list, unsigned int count_of_list) {
  for (unsigned int i = 0; i < count_of_list; i++) {
    if (list[i].memOperationType == CU_MEM_OPERATION_TYPE_MAP) {
      count(list[i].memHandle.memHandle, kMapping);
    }
  }
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::ImportCharge;
using softmig::cuda::kMapping;
using softmig::cuda::kReference;
using softmig::cuda::tables;

SM_HOOK(cuMemCreate, 10020)
CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t bytes,
                     const CUmemAllocationProp* properties, unsigned long long flags) {
  const auto call = [=] { return next_cuMemCreate(out, bytes, properties, flags); };
  if (!active() || out == nullptr || properties == nullptr ||
      properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return call();
  }
  const int device = softmig::cuda::device_of(properties->location.id);
  if (device < 0) return call();
  const uint64_t pages = softmig::cuda::in_pages(bytes);
  softmig::cuda::Charge charge(device, pages);
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  charge.keep(pages);
  tables.handles.insert(*out, {pages, kReference, 0, static_cast<int16_t>(device)});
  return result;
}

SM_HOOK(cuMemRelease, 10020) CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  if (!active()) return next_cuMemRelease(handle);
  const auto done = softmig::cuda::uncount(handle, kReference);
  const CUresult result = next_cuMemRelease(handle);
  softmig::cuda::finish(done, kReference, result);
  return result;
}

SM_HOOK(cuMemRetainAllocationHandle, 11000)
CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* out, void* address) {
  const CUresult result = next_cuMemRetainAllocationHandle(out, address);
  if (active() && result == CUDA_SUCCESS) softmig::cuda::count(*out, kReference);
  return result;
}

SM_HOOK(cuMemMap, 10020)
CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (!active()) return next_cuMemMap(address, bytes, offset, handle, flags);
  const ImportCharge charge = softmig::cuda::charge_import(handle, bytes);
  if (charge == ImportCharge::kRefused) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = next_cuMemMap(address, bytes, offset, handle, flags);
  if (result != CUDA_SUCCESS) {
    if (charge == ImportCharge::kNew) softmig::cuda::undo_import(handle);
    return result;
  }
  softmig::cuda::count(handle, kMapping);
  tables.mappings.insert(address, {bytes, handle});
  return result;
}

SM_HOOK(cuMemUnmap, 10020) CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  if (!active()) return next_cuMemUnmap(address, bytes);
  softmig::cuda::Unmapping unmapping(address, bytes);
  const CUresult result = next_cuMemUnmap(address, bytes);
  unmapping.finish(result);
  return result;
}

SM_HOOK(cuMemExportToShareableHandle, 10020)
CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  const CUresult result = next_cuMemExportToShareableHandle(out, handle, type, flags);
  if (!active() || result != CUDA_SUCCESS) return result;
  const int object = softmig::cuda::share(handle);
  if (object >= 0 && type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    softmig::sys::write_mark(*static_cast<int*>(out),
                             static_cast<uint32_t>(object) % softmig::policy::kObjectMarks);
  }
  return result;
}

SM_HOOK(cuMemImportFromShareableHandle, 10020)
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* out, void* os_handle,
                                        CUmemAllocationHandleType type) {
  const CUresult result = next_cuMemImportFromShareableHandle(out, os_handle, type);
  if (!active() || result != CUDA_SUCCESS) return result;
  const auto descriptor = static_cast<int>(reinterpret_cast<intptr_t>(os_handle));
  softmig::cuda::keep_import(*out, type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
                                       ? softmig::cuda::object_of_descriptor(descriptor)
                                       : -1);
  return result;
}

SM_HOOK(cuMemMapArrayAsync, 11010)
CUresult cuMemMapArrayAsync(CUarrayMapInfo* list, unsigned int count, CUstream stream) {
  const CUresult result = next_cuMemMapArrayAsync(list, count, stream);
  if (active() && result == CUDA_SUCCESS) softmig::cuda::pin_tiles(list, count);
  return result;
}

SM_HOOK(cuMemMapArrayAsync_ptsz, 11010)
CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo* list, unsigned int count, CUstream stream) {
  const CUresult result = next_cuMemMapArrayAsync_ptsz(list, count, stream);
  if (active() && result == CUDA_SUCCESS) softmig::cuda::pin_tiles(list, count);
  return result;
}
