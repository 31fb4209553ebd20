// Stream-ordered allocation. A pool takes memory from the card in steps of 32 MiB whenever it
// likes, and CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT says exactly how much it holds. Asking costs as
// much as we may cost in all, so a device keeps a standing reservation ahead of its pools: an
// allocation that fits what is left of it is passed on at once, and the pools are read again when
// it is used up.
#include "cuda/pool.h"
#include "cuda/state.h"
#include "job/log.h"

SM_DRIVER(cuMemPoolGetAttribute);
SM_DRIVER(cuMemPoolDestroy);
SM_DRIVER(cuMemPoolTrimTo);
SM_DRIVER(cuDeviceGetMemPool);
SM_DRIVER(cuDeviceGetDefaultMemPool);
SM_DRIVER(cuDeviceSetMemPool);
SM_DRIVER(cuStreamGetCtx);
SM_DRIVER(cuStreamIsCapturing);
SM_DRIVER(cuStreamSynchronize);
SM_DRIVER(cuThreadExchangeStreamCaptureMode);

namespace softmig::cuda {
namespace {

using std::memory_order_acq_rel;
using std::memory_order_relaxed;

constexpr uint64_t kStep = 32 * base::kMiB;
constexpr uint64_t kAhead = 64 * base::kMiB;
constexpr int kMaxPools = 256;
constexpr uint64_t kSpareSteps = 3;

// The most by which one allocation lets a pool grow, but for one step shared by all small ones:
// those of more than half a step get one each, smaller ones leave at most as much of it empty as
// they are.
constexpr uint64_t worst_growth(uint64_t bytes) {
  const uint64_t rounded = base::round_up(bytes, kStep);
  return bytes < rounded / 2 ? base::round_up(2 * bytes, abi::kUnit) : rounded;
}

struct KnownPool {
  CUmemoryPool pool;
  bool destroyed;  // by the program, while allocations from it live
};

struct DevicePools {
  std::atomic<int64_t> ahead{0};      // bytes that may still be allocated before the next reading
  std::atomic<int64_t> in_flight{0};  // of calls that are inside the driver now
  sys::Mutex lock;                    // everything below
  uint64_t reserved = 0;              // charged for what the pools were last seen to hold
  uint64_t standing = 0;              // charged ahead of them
  int count = 0;
  KnownPool known[kMaxPools] = {};
};

constinit DevicePools g_pools[job::kDeviceIndices];
constinit std::atomic<bool> g_unsettled{false};
constinit std::atomic<uint32_t> g_generation{0};

// Our own calls must not count as the program's in a capture that forbids them.
class RelaxedCapture {
 public:
  RelaxedCapture() { next_cuThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { next_cuThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

class Lock {
 public:
  explicit Lock(DevicePools& pools) : pools_(pools) {
    pools_.lock.lock();
    if (g_generation.load(memory_order_relaxed) != slice().generation()) forget();
  }
  ~Lock() { pools_.lock.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  static void forget() {  // a fork child owns no pools
    for (DevicePools& pools : g_pools) {
      pools.ahead.store(0, memory_order_relaxed);
      pools.in_flight.store(0, memory_order_relaxed);
      pools.reserved = pools.standing = 0;
      pools.count = 0;
    }
    g_generation.store(slice().generation(), memory_order_relaxed);
  }
  DevicePools& pools_;
};

uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute what) {
  cuuint64_t value = 0;
  return next_cuMemPoolGetAttribute(pool, what, &value) == CUDA_SUCCESS ? value : 0;
}

// What all pools of the device hold now. Pools that the program has destroyed end when their last
// allocation does.
uint64_t read_reserved(DevicePools& pools) {
  uint64_t bytes = 0;
  for (int i = 0; i < pools.count; i++) {
    KnownPool& known = pools.known[i];
    if (known.destroyed && attribute(known.pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) == 0) {
      Record record;
      tables.pools.take(reinterpret_cast<uint64_t>(known.pool), &record);
      next_cuMemPoolDestroy(known.pool);
      known = pools.known[--pools.count];
      i--;
      continue;
    }
    bytes += attribute(known.pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
  }
  return bytes;
}

uint64_t read_used(DevicePools& pools) {
  uint64_t bytes = 0;
  for (int i = 0; i < pools.count; i++) {
    bytes += attribute(pools.known[i].pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
  }
  return bytes;
}

// Bytes that the pools hold and nobody uses.
uint64_t cached_bytes(DevicePools& pools) {
  Lock lock(pools);
  const uint64_t used = read_used(pools);
  return pools.reserved > used ? pools.reserved - used : 0;
}

uint64_t flying(const DevicePools& pools) {
  const int64_t bytes = pools.in_flight.load(memory_order_relaxed);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
}

// Makes the charge what it should be: what the pools hold, and `standing` ahead of them. If the
// limit does not allow that, only what they hold is charged, and the answer is false.
bool settle(DevicePools& pools, int device, uint64_t reserved, uint64_t standing) {
  const uint64_t charged = pools.reserved + pools.standing, wanted = reserved + standing;
  const bool granted = wanted <= charged || slice().try_reserve(device, wanted - charged);
  if (!granted) {
    standing = 0;
    if (reserved > charged) slice().charge(device, reserved - charged);
    if (reserved < charged) slice().release(device, charged - reserved);
  } else if (wanted < charged) {
    slice().release(device, charged - wanted);
  }
  slice().note_ahead(device, static_cast<int64_t>(standing) - static_cast<int64_t>(pools.standing));
  pools.reserved = reserved;
  pools.standing = standing;
  return granted;
}

enum class Room {
  kAhead,  // a standing reservation covers this call and more to come
  kExact,  // reserved for this call alone: to be settled after it
  kRefused,
};

// Room for one call that is counted in in_flight already and may let a pool grow by `exact`.
Room make_room(DevicePools& pools, int device, uint64_t exact, uint64_t worst) {
  const uint64_t reserved = read_reserved(pools), others = flying(pools) - worst;
  if (settle(pools, device, reserved,
             kAhead + kStep * static_cast<uint64_t>(pools.count) + flying(pools))) {
    pools.ahead.store(kAhead, memory_order_relaxed);
    return Room::kAhead;
  }
  pools.ahead.store(0, memory_order_relaxed);
  return settle(pools, device, reserved, others + exact) ? Room::kExact : Room::kRefused;
}

void trim(DevicePools& pools) {
  for (int i = 0; i < pools.count; i++) next_cuMemPoolTrimTo(pools.known[i].pool, 0);
}

bool is_capturing(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return next_cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// As the driver does when a device's current pool is destroyed: nobody shall get memory from it
// now. False: it is the default pool, which cannot be destroyed.
bool make_default_current(CUmemoryPool destroyed, int device) {
  for (int ordinal = 0; ordinal < device_count(); ordinal++) {
    CUmemoryPool current = nullptr, standard = nullptr;
    if (device_of(ordinal) != device ||
        next_cuDeviceGetDefaultMemPool(&standard, ordinal) != CUDA_SUCCESS) {
      continue;
    }
    if (standard == destroyed) return false;
    if (next_cuDeviceGetMemPool(&current, ordinal) == CUDA_SUCCESS && current == destroyed) {
      next_cuDeviceSetMemPool(ordinal, standard);
    }
  }
  return true;
}

}  // namespace

void add_pool(CUmemoryPool pool, int device) {
  DevicePools& pools = g_pools[device];
  Lock lock(pools);
  for (int i = 0; i < pools.count; i++) {
    if (pools.known[i].pool == pool) return;
  }
  if (pools.count == kMaxPools) {
    job::log(job::LogLevel::kError, "more than %d memory pools on a device: not all are counted",
             kMaxPools);
    return;
  }
  pools.known[pools.count++] = {pool, false};
  pools.ahead.store(0, memory_order_relaxed);  // each pool may have a step that is mostly empty
  tables.pools.insert(reinterpret_cast<uint64_t>(pool), {0, 0, 0, static_cast<int16_t>(device)});
}

bool destroy_pool_later(CUmemoryPool pool, CUresult* result) {
  const auto key = reinterpret_cast<uint64_t>(pool);
  Record record;
  if (!tables.pools.find(key, &record)) return false;
  if (record.device < 0) {
    tables.pools.take(key, &record);
    return false;
  }
  if (record.detail == 0 && !make_default_current(pool, record.device)) return false;
  // Of two that come at once, one is too late.
  const bool known = tables.pools.update(key, [&](Record& kept) {
    record.detail = kept.detail;
    kept.detail = 1;
    return true;
  });
  *result = known && record.detail == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  if (*result != CUDA_SUCCESS) return true;
  DevicePools& pools = g_pools[record.device];
  Lock lock(pools);
  for (int i = 0; i < pools.count; i++) {
    if (pools.known[i].pool == pool) pools.known[i].destroyed = true;
  }
  next_cuMemPoolTrimTo(pool, 0);
  settle(pools, record.device, read_reserved(pools), flying(pools));
  pools.ahead.store(0, memory_order_relaxed);
  return true;
}

void pools_may_shrink() { g_unsettled.store(true, memory_order_relaxed); }

void settle_pools() {
  if (!g_unsettled.exchange(false, std::memory_order_acq_rel)) return;
  RelaxedCapture relaxed;
  for (int device = 0; device < job::kDeviceIndices; device++) {
    DevicePools& pools = g_pools[device];
    if (pools.count == 0) continue;
    Lock lock(pools);
    pools.ahead.store(0, memory_order_relaxed);
    settle(pools, device, read_reserved(pools), flying(pools));
  }
}

bool release_hoards(int device) {
  DevicePools& pools = g_pools[device];
  if (pools.count == 0) return false;
  RelaxedCapture relaxed;
  Lock lock(pools);
  const uint64_t before = pools.reserved + pools.standing;
  trim(pools);
  pools.ahead.store(0, memory_order_relaxed);
  settle(pools, device, read_reserved(pools), flying(pools));
  return pools.reserved + pools.standing < before;
}

int device_of_stream(CUstream stream) {
  if (device_count() == 1) return device_of(0);
  CUcontext context = nullptr;
  Record record;
  if (next_cuStreamGetCtx(stream, &context) == CUDA_SUCCESS &&
      tables.contexts.find(reinterpret_cast<uint64_t>(context), &record)) {
    return record.device;
  }
  Place place;
  return current_place(&place) ? place.device : -1;
}

void add_current_pool(int device) {
  for (int ordinal = 0; ordinal < device_count(); ordinal++) {
    CUmemoryPool pool;
    if (device_of(ordinal) == device && next_cuDeviceGetMemPool(&pool, ordinal) == CUDA_SUCCESS) {
      add_pool(pool, device);
    }
  }
}

PoolAdmission::PoolAdmission(int device, uint64_t bytes, CUstream stream)
    : device_(device), worst_(worst_growth(bytes)) {
  DevicePools& pools = g_pools[device];
  const auto worst = static_cast<int64_t>(worst_);
  pools.in_flight.fetch_add(worst, memory_order_relaxed);
  if (pools.ahead.fetch_sub(worst, std::memory_order_acq_rel) >= worst) {
    state_ = State::kAdmitted;
    if (!g_unsettled.load(memory_order_relaxed)) g_unsettled.store(true, memory_order_relaxed);
    return;
  }
  pools.ahead.fetch_add(worst, memory_order_relaxed);
  state_ = admit(bytes, stream);
}

PoolAdmission::State PoolAdmission::admit(uint64_t bytes, CUstream stream) {
  RelaxedCapture relaxed;
  slice().refresh();
  add_current_pool(device_);
  g_unsettled.store(true, memory_order_relaxed);
  State state = admit_now(bytes);
  if (state != State::kRefused) return state;
  if (is_capturing(stream)) return State::kAdmitted;  // nothing is taken before the graph runs
  release_hoards(device_);
  release_graph_memory(device_);
  slice().wait_for_dead();
  state = admit_now(bytes);
  if (state != State::kRefused) return state;
  // What was freed but not yet left by the stream can be had again, and cannot be trimmed. Where
  // there is plenty of it, the pool will not have to grow; else the stream is waited for.
  const uint64_t cached = cached_bytes(g_pools[device_]);
  if (cached >= bytes + kSpareSteps * kStep) return State::kFromCache;
  if (cached >= kStep && next_cuStreamSynchronize(stream) == CUDA_SUCCESS) {
    release_hoards(device_);
    state = admit_now(bytes);
  }
  if (state == State::kRefused) slice().count_refusal(device_, bytes);
  return state;
}

PoolAdmission::State PoolAdmission::admit_now(uint64_t bytes) {
  DevicePools& pools = g_pools[device_];
  Lock lock(pools);
  switch (make_room(pools, device_, base::round_up(bytes, kStep), worst_)) {
    case Room::kAhead:
      return State::kAdmitted;
    case Room::kExact:
      return State::kExact;
    default:
      return State::kRefused;
  }
}

bool PoolAdmission::finish(bool allocated) {
  DevicePools& pools = g_pools[device_];
  pools.in_flight.fetch_sub(static_cast<int64_t>(worst_), memory_order_relaxed);
  if (state_ == State::kAdmitted) return true;
  RelaxedCapture relaxed;
  Lock lock(pools);
  const uint64_t before = pools.reserved;
  settle(pools, device_, read_reserved(pools), flying(pools));
  const job::DeviceMemory memory = slice().memory(device_);
  const bool grew = state_ == State::kFromCache && pools.reserved > before;
  return !allocated || !grew || memory.limit == 0 || memory.used <= memory.limit;
}

void PoolAdmission::give_up_growth(CUstream stream) {
  DevicePools& pools = g_pools[device_];
  RelaxedCapture relaxed;
  next_cuStreamSynchronize(stream);
  Lock lock(pools);
  trim(pools);
  settle(pools, device_, read_reserved(pools), flying(pools));
}

}  // namespace softmig::cuda
