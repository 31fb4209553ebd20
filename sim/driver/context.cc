// Contexts: the primary one of each device, and those that programs make themselves.
#include <algorithm>

#include "driver/objects.h"

namespace softmig::sim {
namespace {

constexpr unsigned int kOldApi =
    3010;  // of contexts made with the functions of CUDA 3.1 and before
constexpr unsigned int kNewApi = 3020;

Context* make_context(Device* device, unsigned int flags, unsigned int api_version) {
  auto* context = new Context();
  context->device = device;
  context->id = driver().next_id++;
  context->flags = flags;
  context->api_version = api_version;
  return context;
}

CUresult wake(Context* context) {
  if (!driver().process->take_context(context->device->index)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!open_queues(context)) {
    driver().process->give_context(context->device->index);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  context->alive = true;
  context->limits = Limits();
  context->device->contexts++;
  if (context->device->default_pool == nullptr) make_default_pool(context->device);
  context->legacy = new Stream();
  context->legacy->context = context;
  context->legacy->id = driver().next_id++;
  return CUDA_SUCCESS;
}

// Everything that was made in the context goes; memory of the device itself with its last context.
void kill(Context* context) {
  if (!context->alive) return;
  context->alive = false;
  close_queues(context);
  retire_streams(context);
  retire_arrays(context);
  retire_modules(context);
  free_context_memory(context);
  Device* device = context->device;
  if (--device->contexts == 0) {
    forget_pool_memory(device);
    forget_graph_memory(device);
  }
  if (context->listed != 0) driver().process->give(device->index, context->listed);
  context->listed = 0;
  driver().process->give_context(device->index);
}

bool are_good_flags(unsigned int flags) {
  const unsigned int schedule = flags & CU_CTX_SCHED_MASK;
  return flags < 0x100 && (schedule & (schedule - 1)) == 0;
}

CUresult create(Call& call, CUcontext* out, unsigned int flags, CUdevice ordinal,
                unsigned int api) {
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (out == nullptr || !are_good_flags(flags)) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  Context* context = make_context(device, flags, api);
  if (const CUresult code = wake(context)) return code;
  context->references = 1;
  context_stack().push_back(context);
  *out = reinterpret_cast<CUcontext>(context);
  return CUDA_SUCCESS;
}

CUresult destroy(Call& call, CUcontext handle) {
  auto* context = live<Context>(handle);
  if (context == nullptr || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (call.forbidden_in_capture()) return call.code();
  wait_for(call, context_work(*context));
  kill(context);
  context->mark = kDead;
  if (current_context() == context) context_stack().pop_back();
  return CUDA_SUCCESS;
}

CUresult push(CUcontext handle) {
  auto* context = live<Context>(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  context_stack().push_back(context);
  return CUDA_SUCCESS;
}

CUresult pop(CUcontext* out) {
  auto& stack = context_stack();
  if (stack.empty() || stack.back() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (out != nullptr) *out = reinterpret_cast<CUcontext>(stack.back());
  stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult reset_primary(Call& call, CUdevice ordinal) {
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (device->primary == nullptr || !device->primary->alive) return CUDA_SUCCESS;
  wait_for(call, context_work(*device->primary));
  kill(device->primary);
  return CUDA_SUCCESS;
}

CUresult set_primary_flags(CUdevice ordinal, unsigned int flags) {
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (!are_good_flags(flags)) return CUDA_ERROR_INVALID_VALUE;
  device->primary_flags = flags;
  if (device->primary != nullptr) device->primary->flags = flags;
  return CUDA_SUCCESS;
}

CUresult synchronize(Call& call, Context* context) {
  for (Stream* stream : context->streams) {
    if (stream->capture == nullptr) continue;
    stream->capture->valid = false;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (call.forbidden_in_capture()) return call.code();
  wait_for(call, context_work(*context));
  wait_for_host_tasks(call);
  release_pools(context->device);
  return CUDA_SUCCESS;
}

}  // namespace

std::vector<Context*>& context_stack() {
  thread_local std::vector<Context*> stack;
  return stack;
}

Context* current_context() {
  const auto& stack = context_stack();
  return stack.empty() ? nullptr : stack.back();
}

CUresult wake_primary(Device* device) {
  if (device->primary == nullptr) {
    device->primary = make_context(device, device->primary_flags, kNewApi);
    device->primary->primary = true;
  }
  return device->primary->alive ? CUDA_SUCCESS : wake(device->primary);
}

CUresult release_primary(Call& call, Device* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  Context* context = device->primary;
  if (context == nullptr || context->references == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (--context->references == 0) {
    wait_for(call, context_work(*context));
    if (context->references == 0) kill(context);
  }
  return CUDA_SUCCESS;
}

bool take_for_context(Context* context, uint64_t bytes) {
  if (!driver().process->take(context->device->index, bytes)) return false;
  context->listed += bytes;
  return true;
}

void give_for_context(Context* context, uint64_t bytes) {
  driver().process->give(context->device->index, bytes);
  context->listed -= bytes;
}

}  // namespace softmig::sim

using namespace softmig::sim;

// --- primary contexts

CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult code = wake_primary(device)) return code;
  device->primary->references++;
  *out = reinterpret_cast<CUcontext>(device->primary);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : release_primary(call, driver().device(ordinal));
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : release_primary(call, driver().device(ordinal));
}

CUresult cuDevicePrimaryCtxReset(CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : reset_primary(call, ordinal);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice ordinal) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : reset_primary(call, ordinal);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned int* flags, int* active) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = device->primary_flags;
  *active = device->primary != nullptr && device->primary->alive;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice ordinal, unsigned int flags) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : set_primary_flags(ordinal, flags);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice ordinal, unsigned int flags) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : set_primary_flags(ordinal, flags);
}

// --- contexts of one's own

CUresult cuCtxCreate(CUcontext* out, unsigned int flags, CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : create(call, out, flags, device, kOldApi);
}

CUresult cuCtxCreate_v2(CUcontext* out, unsigned int flags, CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : create(call, out, flags, device, kNewApi);
}

CUresult cuCtxCreate_v3(CUcontext* out, CUexecAffinityParam* affinity, int affinity_count,
                        unsigned int flags, CUdevice device) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (affinity_count < 0 || (affinity_count > 0 && affinity == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  if (affinity_count > 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;  // a matter of MPS
  return create(call, out, flags, device, kNewApi);
}

CUresult cuCtxCreate_v4(CUcontext* out, CUctxCreateParams* params, unsigned int flags,
                        CUdevice device) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (params != nullptr && params->cigParams != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  if (params != nullptr && params->numExecAffinityParams > 0)
    return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return create(call, out, flags, device, kNewApi);
}

CUresult cuCtxDestroy(CUcontext context) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(call, context);
}

CUresult cuCtxDestroy_v2(CUcontext context) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(call, context);
}

CUresult cuCtxAttach(CUcontext* out, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  call.context()->references++;
  *out = reinterpret_cast<CUcontext>(call.context());
  return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* context = live<Context>(handle);
  if (context == nullptr || context != call.context()) return CUDA_ERROR_INVALID_CONTEXT;
  if (--context->references > 0) return CUDA_SUCCESS;
  if (!context->primary) return destroy(call, handle);
  kill(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : push(context);
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : push(context);
}

CUresult cuCtxPopCurrent(CUcontext* out) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : pop(out);
}

CUresult cuCtxPopCurrent_v2(CUcontext* out) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : pop(out);
}

CUresult cuCtxSetCurrent(CUcontext handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* context = live<Context>(handle);
  if (handle != nullptr && context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  auto& stack = context_stack();
  if (!stack.empty()) stack.pop_back();
  if (context != nullptr) stack.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* out) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUcontext>(call.context());
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = call.device()->ordinal;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Context* context = handle == nullptr ? call.context() : live<Context>(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = context->device->ordinal;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int* flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = call.context()->flags;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long* id) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Context* context = handle == nullptr ? call.context() : live<Context>(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *id = context->id;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int* version) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Context* context = handle == nullptr ? call.context() : live<Context>(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = context->api_version;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  Call call(__func__);
  return call.failed() ? call.code() : synchronize(call, call.context());
}

CUresult cuCtxSynchronize_v2(CUcontext handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Context* context = handle == nullptr ? call.context() : live<Context>(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return synchronize(call, context);
}

CUresult cuCtxResetPersistingL2Cache() {
  Call call(__func__);
  return call.code();
}

CUresult cuCtxEnablePeerAccess(CUcontext handle, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* peer = live<Context>(handle);
  if (peer == nullptr || !peer->alive || peer == call.context()) return CUDA_ERROR_INVALID_CONTEXT;
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (peer->device == call.device()) return CUDA_ERROR_INVALID_DEVICE;
  return call.context()->peers.insert(peer).second ? CUDA_SUCCESS
                                                   : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}

CUresult cuCtxDisablePeerAccess(CUcontext handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* peer = live<Context>(handle);
  if (peer == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return call.context()->peers.erase(peer) != 0 ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}
