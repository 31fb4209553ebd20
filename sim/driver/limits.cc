// cuCtxSetLimit. The stack of all threads that the device can run is taken at once; the heap and
// the printf buffer when a kernel first uses them (launch.cc).
#include "driver/core.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kLargestStack = 512 * kKiB;
constexpr uint64_t kIncludedStack = 1024;  // of each thread, in the context's own cost

uint64_t stack_bytes(const Device& device, uint64_t each) {
  if (each <= kIncludedStack) return 0;
  return (each - kIncludedStack) * static_cast<uint64_t>(device.row->multiprocessors) *
         static_cast<uint64_t>(device.row->threads_per_multiprocessor);
}

CUresult set_stack(Context* context, uint64_t value) {
  value = round_up(value, 16);
  if (value > kLargestStack) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t before = stack_bytes(*context->device, context->limits.stack);
  const uint64_t after = stack_bytes(*context->device, value);
  if (after > before && !take_for_context(context, after - before)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (after < before) give_for_context(context, before - after);
  context->limits.stack = value;
  return CUDA_SUCCESS;
}

uint64_t* field(Limits* limits, CUlimit limit) {
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      return &limits->stack;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      return &limits->printf_fifo;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      return &limits->heap;
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
      return &limits->sync_depth;
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
      return &limits->pending_launches;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
      return &limits->l2_fetch;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
      return &limits->l2_persisting;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuCtxSetLimit(CUlimit limit, std::size_t value) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (call.forbidden_in_capture()) return call.code();
  Limits& limits = call.context()->limits;
  uint64_t* kept = field(&limits, limit);
  if (kept == nullptr) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  const bool fixed = (limit == CU_LIMIT_MALLOC_HEAP_SIZE && limits.heap_taken) ||
                     (limit == CU_LIMIT_PRINTF_FIFO_SIZE && limits.printf_taken);
  if (fixed) return CUDA_ERROR_INVALID_VALUE;
  if (limit == CU_LIMIT_STACK_SIZE) return set_stack(call.context(), value);
  *kept = value;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(std::size_t* value, CUlimit limit) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const uint64_t* kept = field(&call.context()->limits, limit);
  if (kept == nullptr) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *value = *kept;
  return CUDA_SUCCESS;
}
