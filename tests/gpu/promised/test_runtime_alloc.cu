// test_runtime_alloc: cudaMalloc until it is refused. Without a GPU, and on the simulated one,
// which the runtime does not accept, it prints SKIP and succeeds.
#include <cuda_runtime.h>

#include <cstdio>

int main() {
  size_t free = 0, total = 0;
  const cudaError_t opened = cudaMemGetInfo(&free, &total);
  if (opened == cudaErrorNoDevice || opened == cudaErrorInsufficientDriver ||
      opened == cudaErrorSymbolNotFound) {
    std::printf("SKIP: no GPU (%s)\n", cudaGetErrorString(opened));
    return 0;
  }
  constexpr size_t kPiece = size_t{64} << 20;
  size_t granted = 0;
  cudaError_t last = opened;
  void* address = nullptr;
  while (granted <= total && (last = cudaMalloc(&address, kPiece)) == cudaSuccess)
    granted += kPiece;
  std::printf("total %zu MiB, free %zu MiB, cudaMalloc: %zu MiB granted, then %s\n", total >> 20,
              free >> 20, granted >> 20, cudaGetErrorName(last));
  return last == cudaErrorMemoryAllocation ? 0 : 1;
}
