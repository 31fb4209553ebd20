// Contexts cost memory of their own: taken from the job before they are made, with all that belongs
// to them given back when they go.
#include "cuda/context_cost.h"
#include "cuda/timing.h"

SM_DRIVER(cuCtxGetApiVersion);
SM_DRIVER(cuDevicePrimaryCtxGetState);

namespace softmig::cuda {
namespace {

constexpr int kMaxOrdinals = 64;

constinit std::atomic<uint32_t> g_next_context{1};
// Handle of each device's primary context while we charge for it.
constinit std::atomic<CUcontext> g_primary[kMaxOrdinals] = {};

uint64_t key_of(CUcontext context) { return reinterpret_cast<uint64_t>(context); }

void keep_context(CUcontext context, int device, uint64_t cost, uint64_t ordinal) {
  const uint32_t id = g_next_context.fetch_add(1, std::memory_order_relaxed);
  tables.contexts.insert(key_of(context), {cost, ordinal, id, static_cast<int16_t>(device)});
  slice().note_context(device, static_cast<int64_t>(cost));
}

void give_back(const Record& record) {
  drop_context(record.context);
  slice().release(record.device, record.bytes);
  slice().note_context(record.device, -static_cast<int64_t>(record.bytes));
}

// A context that the driver has ended already.
void end_context(CUcontext context) {
  Record record;
  if (tables.contexts.take(key_of(context), &record)) give_back(record);
}

template <typename Call>
[[gnu::noinline]] CUresult create_context(CUcontext* out, CUdevice ordinal, Call call) {
  const int device = device_of(ordinal);
  if (device < 0 || out == nullptr) return call();
  const uint64_t cost = context_cost(ordinal);
  Charge charge(device, cost);
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  charge.keep(cost);
  keep_context(*out, device, cost, static_cast<uint64_t>(ordinal));
  return result;
}

template <typename Call>
[[gnu::noinline]] CUresult destroy_context(CUcontext context, Call call) {
  end_timing(context);
  return end_record(tables.contexts, key_of(context), call, give_back);
}

bool primary_is_active(CUdevice ordinal) {
  unsigned int flags = 0;
  int is_active = 0;
  return next_cuDevicePrimaryCtxGetState(ordinal, &flags, &is_active) == CUDA_SUCCESS &&
         is_active != 0;
}

// The primary context lives by the driver's own count of references: its state is asked afterwards.
template <typename Call>
[[gnu::noinline]] CUresult retain_primary(CUcontext* out, CUdevice ordinal, Call call) {
  const int device = device_of(ordinal);
  if (device < 0 || out == nullptr || g_primary[ordinal].load(std::memory_order_acquire)) {
    return call();
  }
  const uint64_t cost = context_cost(ordinal);
  Charge charge(device, cost);
  // Two threads may come here at once: the one that is refused may still find the other's context.
  if (!charge && !primary_is_active(ordinal)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  CUcontext none = nullptr;
  if (result == CUDA_SUCCESS && g_primary[ordinal].compare_exchange_strong(none, *out)) {
    charge.keep(cost);
    keep_context(*out, device, cost, static_cast<uint64_t>(ordinal));
  }
  return result;
}

void after_primary_release(CUdevice ordinal) {
  if (ordinal < 0 || ordinal >= kMaxOrdinals || primary_is_active(ordinal)) return;
  CUcontext context = g_primary[ordinal].exchange(nullptr, std::memory_order_acq_rel);
  if (context != nullptr) end_context(context);
}

// Its events must not be asked about while it ends, and whether it ends is known afterwards.
template <typename Call>
[[gnu::noinline]] CUresult release_primary(CUdevice ordinal, Call call) {
  CUcontext context = nullptr;
  if (ordinal >= 0 && ordinal < kMaxOrdinals) {
    context = g_primary[ordinal].load(std::memory_order_acquire);
  }
  const bool paused = context != nullptr && pause_timing(context);
  const CUresult result = call();
  if (paused) resume_timing(context, primary_is_active(ordinal));
  after_primary_release(ordinal);
  return result;
}

}  // namespace

}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::create_context;
using softmig::cuda::destroy_context;
using softmig::cuda::release_primary;

SM_HOOK(cuCtxCreate, 2000)
CUresult cuCtxCreate(CUcontext* out, unsigned int flags, CUdevice device) {
  if (!active()) return next_cuCtxCreate(out, flags, device);
  return create_context(out, device, [=] { return next_cuCtxCreate(out, flags, device); });
}

SM_HOOK(cuCtxCreate_v2, 3020)
CUresult cuCtxCreate_v2(CUcontext* out, unsigned int flags, CUdevice device) {
  if (!active()) return next_cuCtxCreate_v2(out, flags, device);
  return create_context(out, device, [=] { return next_cuCtxCreate_v2(out, flags, device); });
}

SM_HOOK(cuCtxCreate_v3, 11040)
CUresult cuCtxCreate_v3(CUcontext* out, CUexecAffinityParam* affinity, int count,
                        unsigned int flags, CUdevice device) {
  if (!active()) return next_cuCtxCreate_v3(out, affinity, count, flags, device);
  return create_context(out, device,
                        [=] { return next_cuCtxCreate_v3(out, affinity, count, flags, device); });
}

SM_HOOK(cuCtxCreate_v4, 12050)
CUresult cuCtxCreate_v4(CUcontext* out, CUctxCreateParams* parameters, unsigned int flags,
                        CUdevice device) {
  if (!active()) return next_cuCtxCreate_v4(out, parameters, flags, device);
  return create_context(out, device,
                        [=] { return next_cuCtxCreate_v4(out, parameters, flags, device); });
}

SM_HOOK(cuCtxDestroy, 2000) CUresult cuCtxDestroy(CUcontext context) {
  if (!active()) return next_cuCtxDestroy(context);
  return destroy_context(context, [=] { return next_cuCtxDestroy(context); });
}

SM_HOOK(cuCtxDestroy_v2, 4000) CUresult cuCtxDestroy_v2(CUcontext context) {
  if (!active()) return next_cuCtxDestroy_v2(context);
  return destroy_context(context, [=] { return next_cuCtxDestroy_v2(context); });
}

SM_HOOK(cuGLCtxCreate, 2000)
CUresult cuGLCtxCreate(CUcontext* out, unsigned int flags, CUdevice device) {
  if (!active()) return next_cuGLCtxCreate(out, flags, device);
  return create_context(out, device, [=] { return next_cuGLCtxCreate(out, flags, device); });
}

SM_HOOK(cuGLCtxCreate_v2, 3020)
CUresult cuGLCtxCreate_v2(CUcontext* out, unsigned int flags, CUdevice device) {
  if (!active()) return next_cuGLCtxCreate_v2(out, flags, device);
  return create_context(out, device, [=] { return next_cuGLCtxCreate_v2(out, flags, device); });
}

SM_HOOK(cuVDPAUCtxCreate, 3010)
CUresult cuVDPAUCtxCreate(CUcontext* out, unsigned int flags, CUdevice device,
                          unsigned int vdp_device, void* get_proc_address) {
  const auto call = [&] {
    return next_cuVDPAUCtxCreate(out, flags, device, vdp_device, get_proc_address);
  };
  return active() ? create_context(out, device, call) : call();
}

SM_HOOK(cuVDPAUCtxCreate_v2, 3020)
CUresult cuVDPAUCtxCreate_v2(CUcontext* out, unsigned int flags, CUdevice device,
                             unsigned int vdp_device, void* get_proc_address) {
  const auto call = [&] {
    return next_cuVDPAUCtxCreate_v2(out, flags, device, vdp_device, get_proc_address);
  };
  return active() ? create_context(out, device, call) : call();
}

// The old way to let go of a context: it ends with its last use, which only the driver counts.
SM_HOOK(cuCtxDetach, 2000) CUresult cuCtxDetach(CUcontext context) {
  if (active()) softmig::cuda::end_timing(context);
  const CUresult result = next_cuCtxDetach(context);
  unsigned int version = 0;
  if (active() && result == CUDA_SUCCESS &&
      next_cuCtxGetApiVersion(context, &version) != CUDA_SUCCESS) {
    softmig::cuda::end_context(context);
  }
  return result;
}

SM_HOOK(cuDevicePrimaryCtxRetain, 7000)
CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice device) {
  if (!active()) return next_cuDevicePrimaryCtxRetain(out, device);
  return softmig::cuda::retain_primary(out, device,
                                       [=] { return next_cuDevicePrimaryCtxRetain(out, device); });
}

SM_HOOK(cuDevicePrimaryCtxRelease, 7000) CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  const auto call = [=] { return next_cuDevicePrimaryCtxRelease(device); };
  return active() ? release_primary(device, call) : call();
}

SM_HOOK(cuDevicePrimaryCtxRelease_v2, 11000)
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  const auto call = [=] { return next_cuDevicePrimaryCtxRelease_v2(device); };
  return active() ? release_primary(device, call) : call();
}

SM_HOOK(cuDevicePrimaryCtxReset, 7000) CUresult cuDevicePrimaryCtxReset(CUdevice device) {
  const auto call = [=] { return next_cuDevicePrimaryCtxReset(device); };
  return active() ? release_primary(device, call) : call();
}

SM_HOOK(cuDevicePrimaryCtxReset_v2, 11000) CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  const auto call = [=] { return next_cuDevicePrimaryCtxReset_v2(device); };
  return active() ? release_primary(device, call) : call();
}
