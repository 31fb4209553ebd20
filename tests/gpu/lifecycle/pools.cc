// Stream-ordered memory: pools, captures, graphs that take memory.
#include "lifecycle/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kHeld = 256 * kMiB;

CUmemoryPool make_pool(const Session& s, bool hold, Checks::Report& report) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, s.device};
  CUmemoryPool pool = nullptr;
  report.result(s.driver.cuMemPoolCreate(&pool, &props), CUDA_SUCCESS, "cuMemPoolCreate");
  cuuint64_t threshold = hold ? ~cuuint64_t{0} : 0;
  report.result(s.driver.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold),
                CUDA_SUCCESS, "threshold");
  return pool;
}

// A destroyed pool keeps what is still allocated from it until that is freed.
void destroyed_pool(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  const uint64_t before = s.free_bytes();
  CUmemoryPool pool = make_pool(s, false, report);
  CUdeviceptr address = 0;
  report.result(d.cuMemAllocFromPoolAsync(&address, kHeld, pool, stream), CUDA_SUCCESS,
                "from the pool");
  report.result(d.cuDeviceSetMemPool(s.device, pool), CUDA_SUCCESS, "cuDeviceSetMemPool");
  report.result(d.cuMemPoolDestroy(pool), CUDA_SUCCESS, "cuMemPoolDestroy");
  report.result(d.cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE, "cuMemPoolDestroy again");
  report.equal(s.free_bytes(), before - kHeld, "free after the pool is destroyed");
  CUmemoryPool current = nullptr;
  report.result(d.cuDeviceGetMemPool(&current, s.device), CUDA_SUCCESS, "cuDeviceGetMemPool");
  report.expect(current != pool, "a destroyed pool is still the current one");
  report.result(d.cuMemFreeAsync(address, stream), CUDA_SUCCESS, "cuMemFreeAsync");
  report.result(d.cuStreamSynchronize(stream), CUDA_SUCCESS, "synchronise");
  report.equal(s.free_bytes(), before, "free at the end");
}

// What a pool hoards must not keep others from what the slice has.
void hoarding_pool(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  const uint64_t before = s.free_bytes();
  CUmemoryPool pool = make_pool(s, true, report);
  if (!report.expect(takable(before) > 0, "no limit is in force")) return;
  const uint64_t most = (before - 64 * kMiB) / (32 * kMiB) * (32 * kMiB);
  for (int round = 0; round < 3; ++round) {
    CUdeviceptr address = 0, plain = 0;
    report.result(d.cuMemAllocFromPoolAsync(&address, most, pool, stream), CUDA_SUCCESS,
                  "nearly everything from the pool");
    report.result(d.cuMemAlloc_v2(&plain, kHeld), CUDA_ERROR_OUT_OF_MEMORY,
                  "plain memory beside a full pool");
    report.result(d.cuMemFreeAsync(address, stream), CUDA_SUCCESS, "cuMemFreeAsync");
    d.cuStreamSynchronize(stream);
    report.result(d.cuMemAlloc_v2(&plain, most), CUDA_SUCCESS,
                  "plain memory where the pool only hoards");
    report.result(d.cuMemFree_v2(plain), CUDA_SUCCESS, "cuMemFree");
  }
  report.result(d.cuMemPoolDestroy(pool), CUDA_SUCCESS, "cuMemPoolDestroy");
  report.equal(s.free_bytes(), before, "free at the end");
}

void default_pool_threshold(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  const uint64_t before = s.free_bytes();
  CUmemoryPool pool = nullptr;
  report.result(d.cuDeviceGetDefaultMemPool(&pool, s.device), CUDA_SUCCESS, "default pool");
  cuuint64_t threshold = ~cuuint64_t{0};
  d.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold);
  CUdeviceptr address = 0;
  report.result(d.cuMemAllocAsync(&address, kHeld, stream), CUDA_SUCCESS, "cuMemAllocAsync");
  report.result(d.cuMemFreeAsync(address, stream), CUDA_SUCCESS, "cuMemFreeAsync");
  d.cuStreamSynchronize(stream);
  report.result(d.cuMemPoolTrimTo(pool, 0), CUDA_SUCCESS, "cuMemPoolTrimTo");
  report.equal(s.free_bytes(), before, "free after the trim");
  report.result(d.cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE, "destroying the default pool");
  report.result(d.cuMemAllocAsync(&address, kHeld, stream), CUDA_SUCCESS, "cuMemAllocAsync");
  report.equal(s.free_bytes(), before - kHeld, "free beside memory of the default pool");
}

// Nothing that we do on the way may spoil a capture in the strictest mode.
void capture_survives(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  const uint64_t before = s.free_bytes();
  report.result(d.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS,
                "begin");
  CUdeviceptr address = 0;
  report.result(d.cuMemAllocAsync(&address, kHeld, stream), CUDA_SUCCESS,
                "captured cuMemAllocAsync");
  report.expect(s.free_bytes() == before,
                "a captured allocation is charged, or cuMemGetInfo fails in a capture");
  report.result(d.cuMemFreeAsync(address, stream), CUDA_SUCCESS, "captured cuMemFreeAsync");
  CUgraph graph = nullptr;
  report.result(d.cuStreamEndCapture(stream, &graph), CUDA_SUCCESS, "end");
  CUgraphExec exec = nullptr;
  report.result(d.cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS, "instantiate");
  for (int i = 0; i < 50; ++i) report.result(d.cuGraphLaunch(exec, stream), CUDA_SUCCESS, "launch");
  report.result(d.cuStreamSynchronize(stream), CUDA_SUCCESS, "synchronise");
  report.expect(before - s.free_bytes() <= 2 * kHeld, "launching a graph again and again adds up");
  d.cuGraphExecDestroy(exec);
  d.cuGraphDestroy(graph);
  report.result(d.cuDeviceGraphMemTrim(s.device), CUDA_SUCCESS, "cuDeviceGraphMemTrim");
  report.equal(s.free_bytes(), before, "free at the end");
}

}  // namespace

void add_pool_checks(Checks* checks) {
  checks->add("pool_destroyed", destroyed_pool);
  checks->add("pool_hoards", hoarding_pool);
  checks->add("pool_threshold", default_pool_threshold);
  checks->add("capture_survives", capture_survives);
}

}  // namespace softmig::gpu_test
