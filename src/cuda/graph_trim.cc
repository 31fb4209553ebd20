// The program's own trim of graph memory.
#include "cuda/state.h"

SM_HOOK(cuDeviceGraphMemTrim, 11040) CUresult cuDeviceGraphMemTrim(CUdevice ordinal) {
  if (!softmig::cuda::active()) return next_cuDeviceGraphMemTrim(ordinal);
  const int device = softmig::cuda::device_of(ordinal);
  if (device >= 0) softmig::cuda::release_graph_memory(device);
  return next_cuDeviceGraphMemTrim(ordinal);
}
