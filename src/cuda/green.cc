// Green contexts: a part of the processors, on top of the primary context, to which each holds a
// reference and which it makes where there is none.
#include "cuda/timing.h"

SM_HOOK(cuGreenCtxCreate, 12040)
CUresult cuGreenCtxCreate(CUgreenCtx* out, CUdevResourceDesc resources, CUdevice device,
                          unsigned int flags) {
  if (!softmig::hook::active()) return next_cuGreenCtxCreate(out, resources, device, flags);
  CUcontext primary = nullptr;
  CUresult result = cuDevicePrimaryCtxRetain(&primary, device);
  if (result != CUDA_SUCCESS) return result;
  auto make = [=] { return next_cuGreenCtxCreate(out, resources, device, flags); };
  result = softmig::cuda::make_green(
      primary, out, [](void* call) { return (*static_cast<decltype(make)*>(call))(); }, &make);
  cuDevicePrimaryCtxRelease_v2(device);
  return result;
}

SM_DRIVER(cuCtxFromGreenCtx);
SM_DRIVER(cuCtxGetCurrent);
SM_DRIVER(cuCtxSetCurrent);
SM_DRIVER(cuCtxGetDevice);

SM_HOOK(cuGreenCtxDestroy, 12040) CUresult cuGreenCtxDestroy(CUgreenCtx context) {
  if (!softmig::hook::active()) return next_cuGreenCtxDestroy(context);
  CUdevice device = -1;
  CUcontext as_context = nullptr, previous = nullptr;
  if (next_cuCtxFromGreenCtx(&as_context, context) == CUDA_SUCCESS &&
      next_cuCtxGetCurrent(&previous) == CUDA_SUCCESS &&
      next_cuCtxSetCurrent(as_context) == CUDA_SUCCESS) {
    next_cuCtxGetDevice(&device);
    next_cuCtxSetCurrent(previous);
  }
  softmig::cuda::end_kept(reinterpret_cast<uint64_t>(context));
  if (as_context != nullptr) softmig::cuda::end_timing(as_context);
  const CUresult result = next_cuGreenCtxDestroy(context);
  // A retain and release of our own sees whether the primary context went with it.
  CUcontext primary = nullptr;
  if (device >= 0 && cuDevicePrimaryCtxRetain(&primary, device) == CUDA_SUCCESS) {
    cuDevicePrimaryCtxRelease_v2(device);
  }
  return result;
}
