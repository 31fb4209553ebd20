// What the programs of stuck/ and launches/ share: the driver's functions, a GPU with kernels whose
// work and whose result is known, what the job's region counts, and an alarm.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/gpu.h"

namespace softmig::gpu_test {

// Beyond common/driver_functions.def these programs want spellings that cuGetProcAddress never
// gives under that name, and functions that few drivers have. What is missing is null.
#define SM_KIT_FUNCTIONS(X)               \
  X(cuInit)                               \
  X(cuDeviceGet)                          \
  X(cuDeviceGetCount)                     \
  X(cuDeviceGetAttribute)                 \
  X(cuDeviceCanAccessPeer)                \
  X(cuDevicePrimaryCtxRetain)             \
  X(cuDevicePrimaryCtxRelease_v2)         \
  X(cuDevicePrimaryCtxReset_v2)           \
  X(cuCtxCreate_v2)                       \
  X(cuCtxDestroy_v2)                      \
  X(cuCtxSetCurrent)                      \
  X(cuCtxSynchronize)                     \
  X(cuCtxEnablePeerAccess)                \
  X(cuCtxGetStreamPriorityRange)          \
  X(cuModuleLoadData)                     \
  X(cuModuleUnload)                       \
  X(cuModuleGetFunction)                  \
  X(cuLibraryLoadData)                    \
  X(cuLibraryGetKernel)                   \
  X(cuFuncSetBlockShape)                  \
  X(cuParamSetSize)                       \
  X(cuParamSetv)                          \
  X(cuMemAlloc_v2)                        \
  X(cuMemFree_v2)                         \
  X(cuMemHostAlloc)                       \
  X(cuMemHostGetDevicePointer_v2)         \
  X(cuMemcpyDtoH_v2)                      \
  X(cuMemsetD8_v2)                        \
  X(cuStreamCreate)                       \
  X(cuStreamCreateWithPriority)           \
  X(cuStreamDestroy_v2)                   \
  X(cuStreamSynchronize)                  \
  X(cuStreamQuery)                        \
  X(cuStreamWaitEvent)                    \
  X(cuStreamWaitValue32_v2)               \
  X(cuStreamWriteValue32_v2)              \
  X(cuStreamIsCapturing)                  \
  X(cuStreamBeginCapture_v2)              \
  X(cuStreamBeginCaptureToGraph)          \
  X(cuStreamEndCapture)                   \
  X(cuThreadExchangeStreamCaptureMode)    \
  X(cuEventCreate)                        \
  X(cuEventDestroy_v2)                    \
  X(cuEventRecord)                        \
  X(cuEventQuery)                         \
  X(cuEventSynchronize)                   \
  X(cuEventElapsedTime)                   \
  X(cuGreenCtxCreate)                     \
  X(cuGreenCtxDestroy)                    \
  X(cuGreenCtxStreamCreate)               \
  X(cuDeviceGetDevResource)               \
  X(cuDevSmResourceSplitByCount)          \
  X(cuDevResourceGenerateDesc)            \
  X(cuGraphCreate)                        \
  X(cuGraphDestroy)                       \
  X(cuGraphAddKernelNode_v2)              \
  X(cuGraphAddChildGraphNode)             \
  X(cuGraphAddNode_v2)                    \
  X(cuGraphConditionalHandleCreate)       \
  X(cuGraphInstantiateWithFlags)          \
  X(cuGraphExecUpdate_v2)                 \
  X(cuGraphExecDestroy)                   \
  X(cuGraphLaunch)                        \
  X(cuGraphLaunch_ptsz)                   \
  X(cuLaunch)                             \
  X(cuLaunchGrid)                         \
  X(cuLaunchGridAsync)                    \
  X(cuLaunchKernel)                       \
  X(cuLaunchKernel_ptsz)                  \
  X(cuLaunchKernelEx)                     \
  X(cuLaunchKernelEx_ptsz)                \
  X(cuLaunchCooperativeKernel)            \
  X(cuLaunchCooperativeKernel_ptsz)       \
  X(cuLaunchCooperativeKernelMultiDevice) \
  X(cuLaunchHostFunc)

struct Calls {
#define SM_KIT_POINTER(name) decltype(&::name) name = nullptr;
  SM_KIT_FUNCTIONS(SM_KIT_POINTER)
#undef SM_KIT_POINTER
};

// Found with dlsym at the first call, in the library that dlopen finds.
const Calls& cu();
// The handle behind it; null if there is no driver.
void* driver_handle();

// If the check is not over by then, says so, and at which step it hung, and ends the process.
void set_alarm(unsigned int seconds, const char* check);
void step(const char* what);

// The limit of GPU time that the slice was given, in percent; 0: none.
int limit_percent();
bool on_simulated_gpu();

// What the region of the job has counted for its n-th device.
struct Counted {
  uint64_t launches = 0, graphs = 0, gpu_ns = 0, waited_ns = 0;
};
// False, with a failure in the report: there is no region, so nobody counts.
bool count(Checks::Report& report, int device, Counted* counted);

class Gpu {
 public:
  static constexpr unsigned int kBlocks = 264, kThreads = 256, kFlags = 64;
  enum class Which { kPrimary, kOwnContext };

  // A device with a context current in this thread, the kernels loaded and run once.
  bool open(Checks::Report& report, int ordinal = 0, Which which = Which::kPrimary);
  // Other threads: makes the context current.
  bool attach(Checks::Report& report) const;

  CUdevice device() const { return device_; }
  CUcontext context() const { return context_; }
  CUfunction work() const { return work_; }
  CUdeviceptr sink() const { return sink_; }

  CUstream stream(unsigned int flags = CU_STREAM_NON_BLOCKING) const;
  // Steps of the kernel that take so long with so many blocks.
  uint64_t steps(double us, unsigned int blocks = kBlocks);

  // One launch of the work kernel. Counted: the sum must have it in the end.
  CUresult launch(CUstream stream, double us, unsigned int blocks = kBlocks);
  // As above for launches by other routes: what a launch of this adds to the sum.
  void expect(uint64_t steps, unsigned int blocks = kBlocks, uint64_t launches = 1);

  // Numbers in host memory that the GPU reads and writes.
  volatile uint32_t& flag(int index) const { return flags_[index * 16]; }
  CUdeviceptr flag_address(int index) const { return flags_address_ + index * 64; }
  // Kernels of one thread: spins until the flag is at least the value; writes it.
  CUresult await(CUstream stream, int flag, uint32_t value) const;
  CUresult raise(CUstream stream, int flag, uint32_t value) const;

  // Waits for the context; the sum on the GPU must be that of all launches, to the bit.
  bool has_right_sum(Checks::Report& report);

 private:
  bool load(Checks::Report& report);
  bool calibrate(Checks::Report& report, unsigned int blocks, double* steps_per_us);
  CUresult launch_flag(CUfunction function, CUstream stream, int flag, uint32_t value) const;

  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction work_ = nullptr, await_ = nullptr, raise_ = nullptr;
  CUdeviceptr sink_ = 0, flags_address_ = 0;
  volatile uint32_t* flags_ = nullptr;
  double per_us_ = 0, per_us_single_ = 0;  // steps, with kBlocks and with one block
  std::atomic<uint64_t> expected_{0};
};

// Calls `batch`, which does so much work and waits for it, without a pause. Result: percent of the
// time that the GPU worked, over `seconds` from half a second on. Negative: a batch failed, the
// report says so.
double hungry_share(Checks::Report& report, double seconds, double batch_ms,
                    const std::function<CUresult()>& batch);
// The same with four kernels of 500 us in a stream.
double hungry_share(Checks::Report& report, double seconds, Gpu& gpu, CUstream stream);
// The share must be the limit, within these points. With slots, on a GPU that others want, it may
// be less.
bool expect_share(Checks::Report& report, double share, double points = 3);
bool expect_share_of(Checks::Report& report, double share, double wanted, double points = 3);

// Spends more than the job has: for about `ms` from now on the gate is closed.
bool close_gate(Checks::Report& report, Gpu& gpu, CUstream stream, double ms);

}  // namespace softmig::gpu_test
