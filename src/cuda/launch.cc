// Launches. What is not throttled reaches the driver by one jump.
#include "cuda/throttle.h"

using softmig::cuda::kernel_work;
using softmig::cuda::throttle;
using softmig::cuda::throttles;

namespace softmig::cuda {
namespace {

Work work_of(CUfunction function, const CUlaunchConfig& config) {
  return kernel_work(function, {{config.gridDimX, config.gridDimY, config.gridDimZ},
                                {config.blockDimX, config.blockDimY, config.blockDimZ},
                                config.sharedMemBytes});
}

template <typename Call>
[[gnu::noinline]] CUresult launch_everywhere(const CUDA_LAUNCH_PARAMS* list, unsigned int count,
                                             Call call) {
  Launch launches[abi::kMaxDevices];
  const unsigned int timed = count < abi::kMaxDevices ? count : abi::kMaxDevices;
  for (unsigned int i = 0; i < timed; i++) {
    const CUDA_LAUNCH_PARAMS& one = list[i];
    launches[i].begin(one.hStream, false,
                      kernel_work(one.function, {{one.gridDimX, one.gridDimY, one.gridDimZ},
                                                 {one.blockDimX, one.blockDimY, one.blockDimZ},
                                                 one.sharedMemBytes}));
  }
  const CUresult result = call();
  for (unsigned int i = 0; i < timed; i++) launches[i].end(result);
  return result;
}

}  // namespace
}  // namespace softmig::cuda

SM_COMPUTE_HOOK(cuLaunchKernel, 4000)
CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                        unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                        unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                        void** params, void** extra) {
  const auto call = [=] {
    return next_cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                               shared_bytes, stream, params, extra);
  };
  if (!throttles()) return call();
  return throttle(
      stream, false,
      kernel_work(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes}),
      call);
}

SM_COMPUTE_HOOK(cuLaunchKernel_ptsz, 7000)
CUresult cuLaunchKernel_ptsz(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                             unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                             unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                             void** params, void** extra) {
  const auto call = [=] {
    return next_cuLaunchKernel_ptsz(function, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                                    shared_bytes, stream, params, extra);
  };
  if (!throttles()) return call();
  return throttle(
      stream, true,
      kernel_work(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes}),
      call);
}

SM_COMPUTE_HOOK(cuLaunchKernelEx, 11060)
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params,
                          void** extra) {
  const auto call = [=] { return next_cuLaunchKernelEx(config, function, params, extra); };
  if (!throttles() || config == nullptr) return call();
  return throttle(config->hStream, false, softmig::cuda::work_of(function, *config), call);
}

SM_COMPUTE_HOOK(cuLaunchKernelEx_ptsz, 11060)
CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction function, void** params,
                               void** extra) {
  const auto call = [=] { return next_cuLaunchKernelEx_ptsz(config, function, params, extra); };
  if (!throttles() || config == nullptr) return call();
  return throttle(config->hStream, true, softmig::cuda::work_of(function, *config), call);
}

SM_COMPUTE_HOOK(cuLaunchCooperativeKernel, 9000)
CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                                   unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                   unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                                   void** params) {
  const auto call = [=] {
    return next_cuLaunchCooperativeKernel(function, grid_x, grid_y, grid_z, block_x, block_y,
                                          block_z, shared_bytes, stream, params);
  };
  if (!throttles()) return call();
  return throttle(
      stream, false,
      kernel_work(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes}),
      call);
}

SM_COMPUTE_HOOK(cuLaunchCooperativeKernel_ptsz, 9000)
CUresult cuLaunchCooperativeKernel_ptsz(CUfunction function, unsigned int grid_x,
                                        unsigned int grid_y, unsigned int grid_z,
                                        unsigned int block_x, unsigned int block_y,
                                        unsigned int block_z, unsigned int shared_bytes,
                                        CUstream stream, void** params) {
  const auto call = [=] {
    return next_cuLaunchCooperativeKernel_ptsz(function, grid_x, grid_y, grid_z, block_x, block_y,
                                               block_z, shared_bytes, stream, params);
  };
  if (!throttles()) return call();
  return throttle(
      stream, true,
      kernel_work(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes}),
      call);
}

SM_COMPUTE_HOOK(cuLaunchCooperativeKernelMultiDevice, 9000)
CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS* list, unsigned int count,
                                              unsigned int flags) {
  const auto call = [=] { return next_cuLaunchCooperativeKernelMultiDevice(list, count, flags); };
  if (!throttles() || list == nullptr) return call();
  return softmig::cuda::launch_everywhere(list, count, call);
}

// Launches of CUDA 3.1 and before: the shape of blocks is the function's own.
SM_COMPUTE_HOOK(cuLaunch, 2000) CUresult cuLaunch(CUfunction function) {
  if (!throttles()) return next_cuLaunch(function);
  return throttle(nullptr, false, kernel_work(function, {{1, 1, 1}, {0, 0, 0}, 0}),
                  [=] { return next_cuLaunch(function); });
}

SM_COMPUTE_HOOK(cuLaunchGrid, 2000)
CUresult cuLaunchGrid(CUfunction function, int grid_x, int grid_y) {
  const auto call = [=] { return next_cuLaunchGrid(function, grid_x, grid_y); };
  if (!throttles()) return call();
  const auto x = static_cast<unsigned int>(grid_x), y = static_cast<unsigned int>(grid_y);
  return throttle(nullptr, false, kernel_work(function, {{x, y, 1}, {0, 0, 0}, 0}), call);
}

SM_COMPUTE_HOOK(cuLaunchGridAsync, 2000)
CUresult cuLaunchGridAsync(CUfunction function, int grid_x, int grid_y, CUstream stream) {
  const auto call = [=] { return next_cuLaunchGridAsync(function, grid_x, grid_y, stream); };
  if (!throttles()) return call();
  const auto x = static_cast<unsigned int>(grid_x), y = static_cast<unsigned int>(grid_y);
  return throttle(stream, false, kernel_work(function, {{x, y, 1}, {0, 0, 0}, 0}), call);
}
