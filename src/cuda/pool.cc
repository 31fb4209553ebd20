// Hooks of stream-ordered allocation; the accounting is in pool_account.cc.
#include "cuda/pool.h"

#include "cuda/state.h"

SM_DRIVER(cuMemFreeAsync);

namespace softmig::cuda {
namespace {

// More than any device has. Beyond it the signed sums of pool_account.cc would turn around: a
// negative size (an overflow in the program) would add to what may still be allocated.
constexpr uint64_t kMostBytes = uint64_t{1} << 44;

template <typename Call>
[[gnu::noinline]] CUresult allocate_from(int device, CUdeviceptr* out, uint64_t bytes,
                                         CUstream stream, Call call) {
  if (device < 0 || out == nullptr || bytes == 0) return call();
  if (bytes > kMostBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  PoolAdmission admission(device, bytes, stream);
  if (admission.refused()) {
    admission.finish(false);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const CUresult result = call();
  if (admission.finish(result == CUDA_SUCCESS)) return result;
  next_cuMemFreeAsync(*out, stream);
  admission.give_up_growth(stream);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

// A pool that was never seen before is one of the driver's own: it serves the stream's device.
int device_of_pool(CUmemoryPool pool, CUstream stream) {
  Record record;
  if (tables.pools.find(reinterpret_cast<uint64_t>(pool), &record)) return record.device;
  const int device = device_of_stream(stream);
  if (device >= 0) add_pool(pool, device);
  return device;
}

int device_of_location(const CUmemLocation& location) {
  return location.type == CU_MEM_LOCATION_TYPE_DEVICE ? device_of(location.id) : -1;
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::add_pool;
using softmig::cuda::allocate_from;
using softmig::cuda::device_of_location;
using softmig::cuda::device_of_pool;
using softmig::cuda::device_of_stream;
using softmig::cuda::settle_pools;
using softmig::cuda::tables;

SM_HOOK(cuMemAllocAsync, 11020)
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  if (!active()) return next_cuMemAllocAsync(out, bytes, stream);
  return allocate_from(device_of_stream(stream), out, bytes, stream,
                       [=] { return next_cuMemAllocAsync(out, bytes, stream); });
}

SM_HOOK(cuMemAllocAsync_ptsz, 11020)
CUresult cuMemAllocAsync_ptsz(CUdeviceptr* out, size_t bytes, CUstream stream) {
  if (!active()) return next_cuMemAllocAsync_ptsz(out, bytes, stream);
  return allocate_from(device_of_stream(stream), out, bytes, stream,
                       [=] { return next_cuMemAllocAsync_ptsz(out, bytes, stream); });
}

SM_HOOK(cuMemAllocFromPoolAsync, 11020)
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool pool,
                                 CUstream stream) {
  if (!active()) return next_cuMemAllocFromPoolAsync(out, bytes, pool, stream);
  return allocate_from(device_of_pool(pool, stream), out, bytes, stream,
                       [=] { return next_cuMemAllocFromPoolAsync(out, bytes, pool, stream); });
}

SM_HOOK(cuMemAllocFromPoolAsync_ptsz, 11020)
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* out, size_t bytes, CUmemoryPool pool,
                                      CUstream stream) {
  if (!active()) return next_cuMemAllocFromPoolAsync_ptsz(out, bytes, pool, stream);
  return allocate_from(device_of_pool(pool, stream), out, bytes, stream,
                       [=] { return next_cuMemAllocFromPoolAsync_ptsz(out, bytes, pool, stream); });
}

SM_HOOK(cuMemPoolCreate, 11020)
CUresult cuMemPoolCreate(CUmemoryPool* out, const CUmemPoolProps* properties) {
  const CUresult result = next_cuMemPoolCreate(out, properties);
  if (result != CUDA_SUCCESS || !active()) return result;
  const int device = device_of_location(properties->location);
  if (device >= 0) {
    add_pool(*out, device);
  } else {
    tables.pools.insert(reinterpret_cast<uint64_t>(*out), {});  // host memory: never charged
  }
  return result;
}

SM_HOOK(cuMemPoolDestroy, 11020) CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  CUresult result;
  if (active() && softmig::cuda::destroy_pool_later(pool, &result)) return result;
  return next_cuMemPoolDestroy(pool);
}

SM_HOOK(cuMemPoolTrimTo, 11020) CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
  const CUresult result = next_cuMemPoolTrimTo(pool, keep);
  if (active()) {
    softmig::cuda::pools_may_shrink();
    settle_pools();
  }
  return result;
}

SM_HOOK(cuStreamSynchronize, 2000) CUresult cuStreamSynchronize(CUstream stream) {
  const CUresult result = next_cuStreamSynchronize(stream);
  if (active()) settle_pools();
  return result;
}

SM_HOOK(cuStreamSynchronize_ptsz, 7000) CUresult cuStreamSynchronize_ptsz(CUstream stream) {
  const CUresult result = next_cuStreamSynchronize_ptsz(stream);
  if (active()) settle_pools();
  return result;
}

SM_HOOK(cuEventSynchronize, 2000) CUresult cuEventSynchronize(CUevent event) {
  const CUresult result = next_cuEventSynchronize(event);
  if (active()) settle_pools();
  return result;
}

SM_HOOK(cuCtxSynchronize, 2000) CUresult cuCtxSynchronize() {
  const CUresult result = next_cuCtxSynchronize();
  if (active()) settle_pools();
  return result;
}

SM_HOOK(cuCtxSynchronize_v2, 13000) CUresult cuCtxSynchronize_v2(CUcontext context) {
  const CUresult result = next_cuCtxSynchronize_v2(context);
  if (active()) settle_pools();
  return result;
}
