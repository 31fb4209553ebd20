// test_runtime_launch: a kernel runs and computes the right thing inside a slice, again and again.
// Without a GPU, and on the simulated one, which the runtime does not accept, it prints SKIP and
// succeeds.
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

__global__ void add(int* values, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) values[i] += i;
}

int main() {
  constexpr int kCount = 1 << 20, kLaunches = 1000;
  int* values = nullptr;
  cudaError_t code = cudaMalloc(&values, kCount * sizeof(int));
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver ||
      code == cudaErrorSymbolNotFound) {
    std::printf("SKIP: no GPU (%s)\n", cudaGetErrorString(code));
    return 0;
  }
  if (code == cudaSuccess) code = cudaMemset(values, 0, kCount * sizeof(int));
  for (int i = 0; code == cudaSuccess && i < kLaunches; ++i) {
    add<<<kCount / 256, 256>>>(values, kCount);
    code = cudaGetLastError();
  }
  std::vector<int> host(kCount);
  if (code == cudaSuccess) {
    code = cudaMemcpy(host.data(), values, kCount * sizeof(int), cudaMemcpyDeviceToHost);
  }
  bool right = code == cudaSuccess;
  for (int i = 0; right && i < kCount; ++i) {
    right = static_cast<unsigned int>(host[i]) == static_cast<unsigned int>(i) * kLaunches;
  }
  std::printf("%s: %d launches, %s\n", right ? "PASS" : "FAIL", kLaunches, cudaGetErrorName(code));
  return right ? 0 : 1;
}
