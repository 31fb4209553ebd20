// runtime_big: a program with a __device__ array of 5 GiB. In a slice of 4 GiB the array must be
// refused where the program first needs it, with cudaErrorMemoryAllocation, and not be taken.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdio>

__device__ char big[5ULL << 30];

__global__ void touch(size_t at) { big[at] = 1; }

int main() {
  touch<<<1, 1>>>(0);
  cudaError_t code = cudaGetLastError();
  if (code == cudaSuccess) code = cudaDeviceSynchronize();
  usleep(60000);
  const bool ok = code == cudaErrorMemoryAllocation;
  std::printf(
      "{\"what\":\"route\",\"route\":\"runtime device array\",\"granted\":%llu,\"result\":%d,"
      "\"result_name\":\"%s\",\"ok\":%s}\n",
      code == cudaSuccess ? 5ULL << 30 : 0ULL, static_cast<int>(code), cudaGetErrorName(code),
      ok ? "true" : "false");
  return ok ? 0 : 1;
}
