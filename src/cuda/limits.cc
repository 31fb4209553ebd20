// What grows inside a context: device limits (stack, heap, printf buffer) and streams.
#include "cuda/timing.h"

SM_DRIVER(cuDeviceGetAttribute);
SM_DRIVER(cuCtxGetCurrent);

namespace softmig::cuda {
namespace {

uint64_t key_of(CUcontext context) { return reinterpret_cast<uint64_t>(context); }

// What a limit of a context costs beyond what the context itself was charged.
uint64_t cost_of_limit(CUlimit limit, uint64_t value, CUdevice ordinal) {
  constexpr uint64_t kStack = 1024, kHeap = 8 * base::kMiB, kPrintf = 9 * base::kMiB;
  int processors = 0, threads = 0;
  uint64_t bytes = 0;
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      next_cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, ordinal);
      next_cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                                ordinal);
      if (value <= kStack) return 0;
      if (__builtin_mul_overflow(value - kStack,
                                 static_cast<uint64_t>(processors) * static_cast<uint64_t>(threads),
                                 &bytes)) {
        return UINT64_MAX / 2;
      }
      return in_pages(bytes);
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      return value > kHeap ? in_pages(value - kHeap) : 0;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      return value > kPrintf ? in_pages(value - kPrintf) : 0;
    default:
      return 0;
  }
}

// One row per context and limit; kinds are told apart by the low bits of the handle, which is
// aligned.
uint64_t limit_key(CUcontext context, int kind) {
  return key_of(context) + static_cast<uint64_t>(kind) + 1;
}
// A lowered limit is a lowered charge: the driver changes the stack at once, and the others as long
// as nothing uses them (after that it refuses to change them).
template <typename Call>
[[gnu::noinline]] CUresult set_limit(CUlimit limit, uint64_t value, Call call) {
  CUcontext context = nullptr;
  Record record, old;
  if (next_cuCtxGetCurrent(&context) != CUDA_SUCCESS ||
      !tables.contexts.find(key_of(context), &record)) {
    return call();
  }
  const uint64_t wanted = cost_of_limit(limit, value, static_cast<CUdevice>(record.detail));
  const uint64_t key = limit_key(context, static_cast<int>(limit));
  tables.limits.find(key, &old);
  if (wanted <= old.bytes) {
    const CUresult result = call();
    if (result != CUDA_SUCCESS || wanted == old.bytes) return result;
    tables.limits.insert(key, {wanted, 0, record.context, record.device});
    slice().release(record.device, old.bytes - wanted);
    return result;
  }
  Charge charge(record.device, wanted - old.bytes);
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  charge.keep(wanted - old.bytes);
  tables.limits.insert(key, {wanted, 0, record.context, record.device});
  return result;
}

// Things that the driver makes inside a context and keeps memory of until the context ends.
struct Kept {
  int kind;
  uint64_t bytes;  // of each: 256 streams take 140 MiB, a green context takes 4
};
constexpr Kept kStreams{7, 35 * kPage / 128}, kGreenContexts{8, 2 * kPage};

// Charges one more of them: the row's detail counts those that live, its bytes are charged for the
// most there ever were. Makes it with `call`.
template <typename Call>
[[gnu::noinline]] CUresult make_kept(CUcontext context, const Kept& kept, Call call) {
  Record record;
  if (!tables.contexts.find(key_of(context), &record)) return call();
  uint64_t growth = 0;
  const uint64_t key = limit_key(context, kept.kind);
  tables.limits.update_or_insert(key, [&](Record& row) {
    row.context = record.context;
    row.device = record.device;
    const uint64_t wanted = in_pages(++row.detail * kept.bytes);
    if (wanted > row.bytes) {
      growth = wanted - row.bytes;
      row.bytes = wanted;
    }
    return true;
  });
  const bool granted = growth == 0 || reserve(record.device, growth);
  const CUresult result = granted ? call() : CUDA_ERROR_OUT_OF_MEMORY;
  if (result == CUDA_SUCCESS) return result;
  tables.limits.update(key, [&](Record& row) {
    row.detail--;
    row.bytes -= growth;
    return true;
  });
  if (granted) slice().release(record.device, growth);
  return result;
}

template <typename Call>
[[gnu::noinline]] CUresult create_stream(CUstream* out, Call call) {
  CUcontext context = nullptr;
  if (out == nullptr || next_cuCtxGetCurrent(&context) != CUDA_SUCCESS) return call();
  const CUresult result = make_kept(context, kStreams, call);
  if (result == CUDA_SUCCESS) {
    tables.streams.insert(reinterpret_cast<uint64_t>(*out), {0, limit_key(context, kStreams.kind)});
  }
  return result;
}

}  // namespace

void end_kept(uint64_t handle) {
  Record record;
  if (!tables.streams.take(handle, &record)) return;
  tables.limits.update(record.detail, [](Record& row) {
    if (row.detail > 0) row.detail--;
    return true;
  });
}

void end_stream(CUstream stream) {
  end_kept(reinterpret_cast<uint64_t>(stream));
  forget_stream(stream);
}

CUresult make_green(CUcontext primary, CUgreenCtx* out, MakeGreen make, void* arguments) {
  const CUresult result = make_kept(primary, kGreenContexts, [&] { return make(arguments); });
  if (result == CUDA_SUCCESS) {
    tables.streams.insert(reinterpret_cast<uint64_t>(*out),
                          {0, limit_key(primary, kGreenContexts.kind)});
  }
  return result;
}

void drop_limits(uint32_t context) {
  uint64_t key;
  Record record;
  while (tables.limits.take_one_of(context, &key, &record)) {
    slice().release(record.device, record.bytes);
  }
}

}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::create_stream;

SM_HOOK(cuCtxSetLimit, 3010) CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  if (!active()) return next_cuCtxSetLimit(limit, value);
  return softmig::cuda::set_limit(limit, value, [=] { return next_cuCtxSetLimit(limit, value); });
}

SM_HOOK(cuStreamCreate, 2000) CUresult cuStreamCreate(CUstream* out, unsigned int flags) {
  if (!active()) return next_cuStreamCreate(out, flags);
  return create_stream(out, [=] { return next_cuStreamCreate(out, flags); });
}

SM_HOOK(cuStreamCreateWithPriority, 5050)
CUresult cuStreamCreateWithPriority(CUstream* out, unsigned int flags, int priority) {
  if (!active()) return next_cuStreamCreateWithPriority(out, flags, priority);
  return create_stream(out, [=] { return next_cuStreamCreateWithPriority(out, flags, priority); });
}

SM_HOOK(cuGreenCtxStreamCreate, 12050)
CUresult cuGreenCtxStreamCreate(CUstream* out, CUgreenCtx context, unsigned int flags,
                                int priority) {
  const auto call = [=] { return next_cuGreenCtxStreamCreate(out, context, flags, priority); };
  return active() ? create_stream(out, call) : call();
}

SM_HOOK(cuStreamDestroy, 2000) CUresult cuStreamDestroy(CUstream stream) {
  if (active()) softmig::cuda::end_stream(stream);
  return next_cuStreamDestroy(stream);
}

SM_HOOK(cuStreamDestroy_v2, 4000) CUresult cuStreamDestroy_v2(CUstream stream) {
  if (active()) softmig::cuda::end_stream(stream);
  return next_cuStreamDestroy_v2(stream);
}
