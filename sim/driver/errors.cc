// Names and texts of the results.
#include <string>

#include "driver/core.h"

namespace softmig::sim {
namespace {

struct Row {
  CUresult code;
  const char* name;
  const char* text;
};

#define SIM_RESULT(code, text) \
  { code, #code, text }
constexpr Row kRows[] = {
    SIM_RESULT(CUDA_SUCCESS, "no error"),
    SIM_RESULT(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    SIM_RESULT(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    SIM_RESULT(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    SIM_RESULT(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    SIM_RESULT(CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library"),
    SIM_RESULT(CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable"),
    SIM_RESULT(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    SIM_RESULT(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    SIM_RESULT(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    SIM_RESULT(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    SIM_RESULT(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "context already current"),
    SIM_RESULT(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
    SIM_RESULT(CUDA_ERROR_UNMAP_FAILED, "unmapping of buffer object failed"),
    SIM_RESULT(CUDA_ERROR_ALREADY_MAPPED, "resource already mapped"),
    SIM_RESULT(CUDA_ERROR_NO_BINARY_FOR_GPU,
               "no kernel image is available for execution on the device"),
    SIM_RESULT(CUDA_ERROR_NOT_MAPPED, "resource not mapped"),
    SIM_RESULT(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
    SIM_RESULT(CUDA_ERROR_CONTEXT_ALREADY_IN_USE,
               "exclusive-thread device already in use by a different thread"),
    SIM_RESULT(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,
               "peer access is not supported between these two devices"),
    SIM_RESULT(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    SIM_RESULT(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
               "the provided execution affinity is not supported"),
    SIM_RESULT(CUDA_ERROR_INVALID_SOURCE, "device kernel image is invalid"),
    SIM_RESULT(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    SIM_RESULT(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found"),
    SIM_RESULT(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
    SIM_RESULT(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
    SIM_RESULT(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    SIM_RESULT(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    SIM_RESULT(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    SIM_RESULT(CUDA_ERROR_NOT_READY, "device not ready"),
    SIM_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    SIM_RESULT(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    SIM_RESULT(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    SIM_RESULT(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    SIM_RESULT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    SIM_RESULT(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE,
               "cannot set while device is active in this process"),
    SIM_RESULT(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    SIM_RESULT(CUDA_ERROR_ASSERT, "device-side assert triggered"),
    SIM_RESULT(CUDA_ERROR_TOO_MANY_PEERS, "peer mapping resources exhausted"),
    SIM_RESULT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
               "part or all of the requested memory range is already mapped"),
    SIM_RESULT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
               "pointer does not correspond to a registered memory region"),
    SIM_RESULT(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    SIM_RESULT(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch"),
    SIM_RESULT(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    SIM_RESULT(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    SIM_RESULT(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized"),
    SIM_RESULT(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
               "system has unsupported display driver / cuda driver combination"),
    SIM_RESULT(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
               "forward compatibility was attempted on non supported HW"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
               "operation not permitted when stream is capturing"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
               "operation failed due to a previous error during capture"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_MERGE,
               "operation would result in a merge of separate capture sequences"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
               "capture was not ended in the same stream as it began"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
               "dependency created on uncaptured work in another stream"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
               "operation would make the legacy stream depend on a capturing blocking stream"),
    SIM_RESULT(CUDA_ERROR_CAPTURED_EVENT,
               "operation not permitted on an event last recorded in a capturing stream"),
    SIM_RESULT(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
               "attempt to terminate a thread-local capture sequence from another thread"),
    SIM_RESULT(CUDA_ERROR_TIMEOUT, "wait operation timed out"),
    SIM_RESULT(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
               "the graph update was not performed because it included changes which violated "
               "constraints"),
    SIM_RESULT(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef SIM_RESULT

const Row* find(CUresult code) {
  for (const Row& row : kRows) {
    if (row.code == code) return &row;
  }
  return nullptr;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuGetErrorName(CUresult code, const char** name) {
  const Row* row = find(code);
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = row != nullptr ? row->name : nullptr;
  return row != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char** text) {
  const Row* row = find(code);
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *text = row != nullptr ? row->text : nullptr;
  return row != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuProfilerStart() {
  Call call(__func__);
  return call.code();
}

CUresult cuProfilerStop() {
  Call call(__func__);
  return call.code();
}
