// Streams: work in the lanes of a context.
#include <algorithm>
#include <unordered_map>

#include "driver/objects.h"

namespace softmig::sim {
namespace {

constexpr unsigned int kFreeStreams = 1;  // come with the context
constexpr unsigned int kStreamsPerPage = 4;

uint64_t stream_bytes(uint64_t count) {
  if (count <= kFreeStreams) return 0;
  return round_up(count - kFreeStreams, kStreamsPerPage) / kStreamsPerPage * kPage;
}

Stream* per_thread_stream(Context* context) {
  thread_local std::unordered_map<uint64_t, Stream*> streams;  // by context id
  Stream*& stream = streams[context->id];
  if (stream == nullptr || stream->mark == kDead || stream->context != context) {
    stream = new Stream();
    stream->context = context;
    stream->id = driver().next_id++;
  }
  return stream;
}

CUresult create(Call& call, CUstream* out, unsigned int flags, int priority) {
  if (out == nullptr || (flags & ~1u) != 0) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream = make_stream(call.context(), flags, std::clamp(priority, -5, 0));
  if (stream == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = reinterpret_cast<CUstream>(stream);
  return CUDA_SUCCESS;
}

void retire(Stream* stream) {
  if (stream->capture != nullptr) {
    stream->capture->valid = false;
    stream->capture->streams.erase(stream);
  }
  stream->mark = kDead;
}

CUresult destroy(CUstream handle) {
  Stream* stream = live<Stream>(handle);
  if (reinterpret_cast<uintptr_t>(handle) <= CU_STREAM_PER_THREAD_VALUE)
    return CUDA_ERROR_INVALID_HANDLE;
  if (stream == nullptr || stream == stream->context->legacy) return CUDA_ERROR_INVALID_HANDLE;
  Context* context = stream->context;
  const uint64_t before = stream_bytes(context->streams.size());
  if (context->streams.erase(stream) != 0) {
    const uint64_t after = stream_bytes(context->streams.size());
    if (after < before) give_for_context(context, before - after);
  }
  retire(stream);
  return CUDA_SUCCESS;
}

// True, with the result, where the stream takes part in a capture, or would have to wait for one:
// that breaks the capture.
bool is_unfit_for_capture(Stream* stream, CUresult* code) {
  if (route_of(stream, code) == Route::kPlain) return false;
  if (stream->capture == nullptr) return true;
  stream->capture->valid = false;
  *code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return true;
}

CUresult synchronize(Call& call, CUstream handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (is_unfit_for_capture(stream, &code)) return code;
  if (call.forbidden_in_capture()) return call.code();
  const uint64_t host_task = stream->host_task;
  Device* device = stream->context->device;
  wait_for(call, stream_work(*stream));
  wait_for_host_task(call, host_task);
  release_pools(device);
  return CUDA_SUCCESS;
}

CUresult query(Call& call, CUstream handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (is_unfit_for_capture(stream, &code)) return code;
  if (call.forbidden_in_capture()) return call.code();
  return is_done_now(stream->last) && is_host_task_done(stream->host_task) ? CUDA_SUCCESS
                                                                           : CUDA_ERROR_NOT_READY;
}

CUresult wait_event(Call& call, CUstream handle, CUevent event_handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream_with_room(call, handle, per_thread, &code);
  if (stream == nullptr) return code;
  auto* event = live<Event>(event_handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const bool captured = event->capture != nullptr && driver().captures.count(event->capture) != 0 &&
                        event->capture->id == event->capture_id;
  if (captured) return join_capture(stream, event->capture, event->tips);
  if (stream->capture != nullptr) {
    stream->capture->valid = false;  // what was recorded outside is no part of the graph
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (event->recorded) follow(stream, event->ticket);
  stream->host_task = std::max(stream->host_task, event->host_task);
  return CUDA_SUCCESS;
}

template <class T>
CUresult answer(Call& call, CUstream handle, bool per_thread, T* out, T (*get)(const Stream&)) {
  CUresult code = CUDA_SUCCESS;
  const Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = get(*stream);
  return CUDA_SUCCESS;
}

CUcontext get_context(const Stream& s) { return reinterpret_cast<CUcontext>(s.context); }
CUgreenCtx get_green(const Stream& s) { return reinterpret_cast<CUgreenCtx>(s.green); }
CUdevice get_device(const Stream& s) { return s.context->device->ordinal; }
unsigned int get_flags(const Stream& s) { return s.flags; }
int get_priority(const Stream& s) { return s.priority; }
unsigned long long get_id(const Stream& s) { return s.id; }

CUresult get_both(Call& call, CUstream handle, bool per_thread, CUcontext* context,
                  CUgreenCtx* green) {
  if (const CUresult code = answer(call, handle, per_thread, context, get_context)) return code;
  if (green != nullptr) return answer(call, handle, per_thread, green, get_green);
  return CUDA_SUCCESS;
}

}  // namespace

Stream* find_stream(CUstream handle, bool per_thread, Context* context, CUresult* code) {
  const auto value = reinterpret_cast<uintptr_t>(handle);
  if (value == CU_STREAM_PER_THREAD_VALUE || (value == 0 && per_thread))
    return per_thread_stream(context);
  if (value == 0 || value == CU_STREAM_LEGACY_VALUE) return context->legacy;
  Stream* stream = live<Stream>(handle);
  if (stream == nullptr)
    *code = CUDA_ERROR_INVALID_HANDLE;
  else if (!stream->context->alive)
    *code = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  else
    return stream;
  return nullptr;
}

Stream* make_stream(Context* context, unsigned int flags, int priority) {
  const uint64_t now = stream_bytes(context->streams.size());
  const uint64_t then = stream_bytes(context->streams.size() + 1);
  if (then > now && !take_for_context(context, then - now)) return nullptr;
  auto* stream = new Stream();
  stream->context = context;
  stream->flags = flags;
  stream->priority = priority;
  stream->id = driver().next_id++;
  context->streams.insert(stream);
  return stream;
}

void retire_streams(Context* context) {
  for (Stream* stream : context->streams) retire(stream);
  context->streams.clear();
  if (context->legacy != nullptr) retire(context->legacy);
  context->legacy = nullptr;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuStreamCreate(CUstream* out, unsigned int flags) {
  Call call(__func__);
  return call.failed() ? call.code() : create(call, out, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* out, unsigned int flags, int priority) {
  Call call(__func__);
  return call.failed() ? call.code() : create(call, out, flags, priority);
}

CUresult cuStreamDestroy(CUstream stream) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(stream);
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(stream);
}

CUresult cuStreamSynchronize(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : synchronize(call, stream, false);
}

CUresult cuStreamSynchronize_ptsz(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : synchronize(call, stream, true);
}

CUresult cuStreamQuery(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : query(call, stream, false);
}

CUresult cuStreamQuery_ptsz(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : query(call, stream, true);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int) {
  Call call(__func__);
  return call.failed() ? call.code() : wait_event(call, stream, event, false);
}

CUresult cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned int) {
  Call call(__func__);
  return call.failed() ? call.code() : wait_event(call, stream, event, true);
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, false, context, get_context);
}

CUresult cuStreamGetCtx_ptsz(CUstream stream, CUcontext* context) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, true, context, get_context);
}

CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext* context, CUgreenCtx* green) {
  Call call(__func__);
  return call.failed() ? call.code() : get_both(call, stream, false, context, green);
}

CUresult cuStreamGetCtx_v2_ptsz(CUstream stream, CUcontext* context, CUgreenCtx* green) {
  Call call(__func__);
  return call.failed() ? call.code() : get_both(call, stream, true, context, green);
}

CUresult cuStreamGetDevice(CUstream stream, CUdevice* device) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, false, device, get_device);
}

CUresult cuStreamGetDevice_ptsz(CUstream stream, CUdevice* device) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, true, device, get_device);
}

CUresult cuStreamGetFlags(CUstream stream, unsigned int* flags) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, false, flags, get_flags);
}

CUresult cuStreamGetFlags_ptsz(CUstream stream, unsigned int* flags) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, true, flags, get_flags);
}

CUresult cuStreamGetPriority(CUstream stream, int* priority) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, false, priority, get_priority);
}

CUresult cuStreamGetPriority_ptsz(CUstream stream, int* priority) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, true, priority, get_priority);
}

CUresult cuStreamGetId(CUstream stream, unsigned long long* id) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, false, id, get_id);
}

CUresult cuStreamGetId_ptsz(CUstream stream, unsigned long long* id) {
  Call call(__func__);
  return call.failed() ? call.code() : answer(call, stream, true, id, get_id);
}
