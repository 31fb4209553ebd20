#include "cuda/state.h"

#include "cuda/pool.h"
#include "policy/visibility.h"
#include "sys/env.h"

SM_DRIVER(cuCtxGetCurrent);
SM_DRIVER(cuCtxGetDevice);
SM_DRIVER(cuDeviceGetCount);
SM_DRIVER(cuDeviceGetUuid);
SM_DRIVER(cuDeviceGetUuid_v2);

namespace softmig::cuda {
namespace {

constexpr int kMaxOrdinals = 64;
constinit std::atomic<int> g_devices[kMaxOrdinals] = {};  // index + 1, 0 while unknown
constinit std::atomic<int> g_device_count{0};

int enter_device(CUdevice ordinal) {
  CUuuid uuid;
  // _v2 tells the parts of a MIG device apart.
  const CUresult result = next_cuDeviceGetUuid_v2.available()
                              ? next_cuDeviceGetUuid_v2(&uuid, ordinal)
                              : next_cuDeviceGetUuid(&uuid, ordinal);
  if (result != CUDA_SUCCESS) return -1;
  policy::Uuid name;
  static_assert(sizeof name.byte == sizeof uuid.bytes);
  __builtin_memcpy(name.byte, uuid.bytes, sizeof name.byte);
  const char* visible = sys::variable("CUDA_VISIBLE_DEVICES");
  return slice().add_device(name,
                            visible == nullptr ? ordinal : policy::visible_index(visible, ordinal));
}

}  // namespace

constinit Tables tables;

int device_of(CUdevice ordinal) {
  if (ordinal < 0 || ordinal >= kMaxOrdinals) return -1;
  int index = g_devices[ordinal].load(std::memory_order_acquire) - 1;
  if (index < 0) {
    index = enter_device(ordinal);
    // What cannot be counted is asked about again: its limit may go.
    if (index >= 0 && index != job::kUncounted)
      g_devices[ordinal].store(index + 1, std::memory_order_release);
  }
  return index;
}

int device_count() {
  int count = g_device_count.load(std::memory_order_relaxed);
  if (count == 0 && next_cuDeviceGetCount(&count) == CUDA_SUCCESS) {
    g_device_count.store(count, std::memory_order_relaxed);
  }
  return count;
}

bool current_place(Place* place) {
  CUcontext context = nullptr;
  if (next_cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr) return false;
  Record record;
  if (tables.contexts.find(reinterpret_cast<uint64_t>(context), &record)) {
    *place = {record.context, record.device};
    return true;
  }
  // A context that came by another way (a green context): its device is charged, by no context.
  CUdevice ordinal;
  if (next_cuCtxGetDevice(&ordinal) != CUDA_SUCCESS) return false;
  *place = {0, device_of(ordinal)};
  return place->device >= 0;
}

bool reserve(int device, uint64_t bytes) {
  slice().refresh();
  if (slice().try_reserve(device, bytes)) return true;
  const bool released = release_hoards(device) | release_graph_memory(device);
  return (released && slice().try_reserve(device, bytes)) || slice().reserve(device, bytes);
}

void drop_context(uint32_t context) {
  drop_pointers(context);
  drop_arrays(context);
  drop_modules(context);
  drop_limits(context);
}

PackedCharge::PackedCharge(policy::Packing* packing, sys::Mutex* lock, int device, uint64_t bytes)
    : packing_(packing), lock_(lock), device_(device), bytes_(bytes) {
  lock_->lock();
  const uint64_t growth = packing_->growth(bytes);
  granted_ = growth == 0 || reserve(device, growth);
  if (granted_) packing_->add(bytes);
  lock_->unlock();
}

PackedCharge::~PackedCharge() {
  if (!granted_ || kept_) return;
  lock_->lock();
  slice().release(device_, packing_->remove(bytes_));
  lock_->unlock();
}

}  // namespace softmig::cuda
