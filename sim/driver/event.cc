// Events: the time at which the stream's work before them is done.
#include <algorithm>

#include "driver/objects.h"

namespace softmig::sim {
namespace {

CUresult record(Call& call, CUevent handle, CUstream stream_handle, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream_with_room(call, stream_handle, per_thread, &code);
  if (stream == nullptr) return code;
  auto* event = live<Event>(handle);
  if (event == nullptr || event->context != stream->context) return CUDA_ERROR_INVALID_HANDLE;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture:
      event->capture = stream->capture;
      event->capture_id = stream->capture->id;
      event->tips = stream->tips;
      return CUDA_SUCCESS;
    case Route::kPlain:
      break;
  }
  event->capture = nullptr;
  event->recorded = true;
  event->ticket = mark(stream);
  keep_time(event);
  event->host_task = stream->host_task;
  return CUDA_SUCCESS;
}

bool is_captured(const Event& event) {
  return event.capture != nullptr && driver().captures.count(event.capture) != 0 &&
         event.capture->id == event.capture_id;
}

bool is_done(const Event& event) {
  return !event.recorded || (is_done_now(event.ticket) && is_host_task_done(event.host_task));
}

CUresult destroy(CUevent handle) {
  auto* event = live<Event>(handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  event->mark = kDead;
  return CUDA_SUCCESS;
}

CUresult elapsed(float* ms, CUevent from_handle, CUevent to_handle) {
  auto* from = live<Event>(from_handle);
  auto* to = live<Event>(to_handle);
  if (from == nullptr || to == nullptr || !from->recorded || !to->recorded)
    return CUDA_ERROR_INVALID_HANDLE;
  if (((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
  if (ms == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!is_done(*from) || !is_done(*to)) return CUDA_ERROR_NOT_READY;
  const auto ns = static_cast<int64_t>(time_of(to) - time_of(from));
  *ms = static_cast<float>(static_cast<double>(ns) / 1e6);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuEventCreate(CUevent* out, unsigned int flags) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const bool lone_ipc =
      (flags & CU_EVENT_INTERPROCESS) != 0 && (flags & CU_EVENT_DISABLE_TIMING) == 0;
  if (out == nullptr || (flags & ~7u) != 0 || lone_ipc) return CUDA_ERROR_INVALID_VALUE;
  auto* event = new Event();
  event->context = call.context();
  event->flags = flags;
  *out = reinterpret_cast<CUevent>(event);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(event);
}

CUresult cuEventDestroy_v2(CUevent event) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : destroy(event);
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : record(call, event, stream, false);
}

CUresult cuEventRecord_ptsz(CUevent event, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : record(call, event, stream, true);
}

CUresult cuEventQuery(CUevent handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* event = live<Event>(handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (is_captured(*event)) {
    event->capture->valid = false;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  if (call.forbidden_in_capture()) return call.code();
  return is_done(*event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const auto* event = live<Event>(handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (is_captured(*event)) {
    event->capture->valid = false;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  if (call.forbidden_in_capture()) return call.code();
  if (!event->recorded) return CUDA_SUCCESS;
  Device* device = event->context->device;
  const uint64_t host_task = event->host_task;
  wait_for(call, {event->ticket});
  wait_for_host_task(call, host_task);
  release_pools(device);
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float* ms, CUevent from, CUevent to) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : elapsed(ms, from, to);
}

CUresult cuEventElapsedTime_v2(float* ms, CUevent from, CUevent to) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : elapsed(ms, from, to);
}
