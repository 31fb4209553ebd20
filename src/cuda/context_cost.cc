#include "cuda/context_cost.h"

#include "cuda/state.h"
#include "job/calibration.h"

SM_DRIVER(cuDeviceGetAttribute);
SM_DRIVER(cuDeviceGetName);

namespace softmig::cuda {
namespace {

// An H100 (132 processors) takes 524 MiB for a context, 2 for the first module, 1 to 16 for
// streams.
constexpr uint64_t kGuessBase = 160 * base::kMiB, kGuessPerProcessor = 3 * base::kMiB;

constexpr int kMaxOrdinals = 64;
constinit std::atomic<uint64_t> g_costs[kMaxOrdinals] = {};

uint64_t look_up(CUdevice ordinal) {
  char name[256] = {};
  uint64_t bytes = 0;
  if (next_cuDeviceGetName(name, sizeof name, ordinal) == CUDA_SUCCESS &&
      job::calibrated_context_cost(name, &bytes)) {
    return in_pages(bytes);
  }
  int processors = 0;
  next_cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, ordinal);
  return kGuessBase + kGuessPerProcessor * static_cast<uint64_t>(processors);
}

}  // namespace

uint64_t context_cost(CUdevice ordinal) {
  if (slice().settings().context_cost != 0) return in_pages(slice().settings().context_cost);
  if (ordinal < 0 || ordinal >= kMaxOrdinals) return kGuessBase;
  uint64_t cost = g_costs[ordinal].load(std::memory_order_relaxed);
  if (cost == 0) {
    cost = look_up(ordinal);
    g_costs[ordinal].store(cost, std::memory_order_relaxed);
  }
  return cost;
}

}  // namespace softmig::cuda
