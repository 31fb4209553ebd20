// Green contexts: some of the multiprocessors of a device, on top of its primary context.
#include <algorithm>

#include "driver/objects.h"

namespace softmig::sim {
namespace {

constexpr unsigned int kAlignment = 8;  // multiprocessors are handed out in groups of this size
constexpr unsigned int kDefaultStream = 1;

struct Description {
  std::vector<CUdevResource> resources;
};

CUdevResource resource_of(unsigned int multiprocessors) {
  CUdevResource resource{};
  resource.type = CU_DEV_RESOURCE_TYPE_SM;
  resource.sm.smCount = multiprocessors;
  resource.sm.minSmPartitionSize = kAlignment;
  resource.sm.smCoscheduledAlignment = kAlignment;
  return resource;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuDeviceGetDevResource(CUdevice ordinal, CUdevResource* resource, CUdevResourceType type) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  const Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (resource == nullptr || type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_VALUE;
  *resource = resource_of(static_cast<unsigned int>(device->row->multiprocessors));
  return CUDA_SUCCESS;
}

CUresult cuDevSmResourceSplitByCount(CUdevResource* result, unsigned int* groups,
                                     const CUdevResource* input, CUdevResource* rest, unsigned int,
                                     unsigned int min_count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (groups == nullptr || input == nullptr || input->type != CU_DEV_RESOURCE_TYPE_SM)
    return CUDA_ERROR_INVALID_VALUE;
  const auto each = static_cast<unsigned int>(round_up(std::max(1u, min_count), kAlignment));
  const unsigned int possible = input->sm.smCount / each;
  if (result == nullptr) {
    *groups = possible;
    return CUDA_SUCCESS;
  }
  *groups = std::min(*groups, possible);
  if (*groups == 0) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned int i = 0; i < *groups; ++i) result[i] = resource_of(each);
  if (rest != nullptr) *rest = resource_of(input->sm.smCount - *groups * each);
  return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc* desc, CUdevResource* resources,
                                   unsigned int count) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (desc == nullptr || resources == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  auto* description = new Description{{resources, resources + count}};
  *desc = reinterpret_cast<CUdevResourceDesc>(description);
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxCreate(CUgreenCtx* out, CUdevResourceDesc desc, CUdevice ordinal,
                          unsigned int flags) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Device* device = driver().device(ordinal);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (out == nullptr || desc == nullptr || flags != kDefaultStream) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult code = wake_primary(device)) return code;
  device->primary->references++;
  auto* green = new Green();
  green->context = device->primary;
  green->id = driver().next_id++;
  for (const CUdevResource& one : reinterpret_cast<Description*>(desc)->resources)
    green->multiprocessors += one.sm.smCount;
  *out = reinterpret_cast<CUgreenCtx>(green);
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* green = live<Green>(handle);
  if (green == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  green->mark = kDead;
  return release_primary(call, green->context->device);
}

CUresult cuGreenCtxStreamCreate(CUstream* out, CUgreenCtx handle, unsigned int flags,
                                int priority) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* green = live<Green>(handle);
  if (green == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr || flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream = make_stream(green->context, flags, priority);
  if (stream == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  stream->green = green;
  *out = reinterpret_cast<CUstream>(stream);
  return CUDA_SUCCESS;
}

CUresult cuCtxFromGreenCtx(CUcontext* out, CUgreenCtx handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* green = live<Green>(handle);
  if (green == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUcontext>(green->context);
  return CUDA_SUCCESS;
}
