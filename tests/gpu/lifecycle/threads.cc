// Threads: the first call of a process comes from many at once; and nothing drifts when many take
// and free by every route.
#include <atomic>
#include <latch>
#include <random>
#include <thread>

#include "lifecycle/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr int kThreads = 16;
constexpr int kChurners = 6;
constexpr int kSteps = 400;

void racing_first_call(Checks::Report& report) {
  std::latch together(kThreads);
  std::atomic<int> good = 0;
  std::atomic<uint64_t> total = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Session s;
      std::string step;
      Lookup lookup;
      if (i % 3 == 1) lookup.door = Door::kProcV2, lookup.version = 12000;
      if (i % 3 == 2) lookup.door = Door::kDefault;
      together.arrive_and_wait();
      CUdeviceptr address = 0;
      if (s.open(lookup, 0, &step) != CUDA_SUCCESS) return;
      if (s.driver.cuMemAlloc_v2(&address, 16 * kMiB) != CUDA_SUCCESS) return;
      total = s.total_bytes();
      ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  report.equal(static_cast<uint64_t>(good), kThreads, "threads that got their memory");
  Session s;
  if (!open(&s, report)) return;
  report.equal(total, s.total_bytes(), "total as the threads saw it");
  expect_exactly_free(s, report, "after the race");
}

void churn(const Session& s, unsigned int seed) {
  const Driver& d = s.driver;
  d.cuCtxSetCurrent(s.context);
  std::mt19937 random(seed);
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, s.device};
  std::vector<CUdeviceptr> linear, ordered;
  std::vector<CUmemGenericAllocationHandle> physical;
  std::vector<CUarray> arrays;
  const auto drop = [&](bool all) {
    do {
      if (!linear.empty()) d.cuMemFree_v2(linear.back()), linear.pop_back();
      if (!ordered.empty()) d.cuMemFreeAsync(ordered.back(), stream), ordered.pop_back();
      if (!physical.empty()) d.cuMemRelease(physical.back()), physical.pop_back();
      if (!arrays.empty()) d.cuArrayDestroy(arrays.back()), arrays.pop_back();
    } while (all && !(linear.empty() && ordered.empty() && physical.empty() && arrays.empty()));
  };
  for (int i = 0; i < kSteps; ++i) {
    const uint64_t bytes = uint64_t{512} << random() % 17;  // to 32 MiB
    CUdeviceptr address = 0;
    CUmemGenericAllocationHandle handle = 0;
    CUarray array = nullptr;
    const CUDA_ARRAY_DESCRIPTOR desc{1 + random() % 1024, 1 + random() % 1024, CU_AD_FORMAT_FLOAT,
                                     2};
    switch (random() % 6) {
      case 0:
      case 1:
        if (d.cuMemAlloc_v2(&address, bytes) == CUDA_SUCCESS) linear.push_back(address);
        break;
      case 2:
        if (d.cuMemAllocAsync(&address, bytes, stream) == CUDA_SUCCESS) ordered.push_back(address);
        break;
      case 3:
        if (d.cuMemCreate(&handle, 2 * kMiB * (1 + random() % 16), &prop, 0) == CUDA_SUCCESS)
          physical.push_back(handle);
        break;
      case 4:
        if (d.cuArrayCreate_v2(&array, &desc) == CUDA_SUCCESS) arrays.push_back(array);
        break;
      default:
        drop(false);
    }
  }
  drop(true);
  d.cuStreamSynchronize(stream);
  d.cuStreamDestroy_v2(stream);
}

// As many streams as will live at once: what they cost the driver keeps for the next ones.
void warm_streams(const Session& s) {
  CUstream streams[kChurners] = {};
  for (CUstream& stream : streams) s.driver.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  for (CUstream stream : streams) s.driver.cuStreamDestroy_v2(stream);
}

void no_drift(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  warm_streams(s);
  uint64_t before = 0;
  for (unsigned int round = 0; round < 3; ++round) {
    std::vector<std::thread> threads;
    for (unsigned int i = 0; i < kChurners; ++i)
      threads.emplace_back([&, i] { churn(s, round * 100 + i); });
    for (std::thread& thread : threads) thread.join();
    s.driver.cuCtxSynchronize();
    CUmemoryPool pool = nullptr;
    s.driver.cuDeviceGetDefaultMemPool(&pool, s.device);
    s.driver.cuMemPoolTrimTo(pool, 0);
    // The first round shows what the driver keeps of its streams.
    if (round == 0) before = s.free_bytes();
    report.equal(s.free_bytes(), before, "free after a round");
  }
  expect_exactly_free(s, report, "at the end");
}

}  // namespace

void add_thread_checks(Checks* checks) {
  checks->add("racing_first_call", racing_first_call);
  checks->add("no_drift", no_drift);
}

}  // namespace softmig::gpu_test
