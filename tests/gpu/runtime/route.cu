// runtime_route ROUTE SIZE [--cap BYTES] [--hold MS]
//
// The routes of tests/gpu/routes through the runtime API: takes memory until it is refused. Exit
// status 0: the end was cudaErrorMemoryAllocation. One line of JSON, as `route` prints it.
#include <cuda_runtime.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr uint64_t kMiB = 1 << 20;

uint64_t parse_size(const std::string& text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  switch (*end) {
    case 'K':
      return value << 10;
    case 'M':
      return value << 20;
    case 'G':
      return value << 30;
    default:
      return value;
  }
}

using Take = cudaError_t (*)(uint64_t bytes);

cudaStream_t stream = nullptr;
cudaMemPool_t pool = nullptr;

cudaError_t take_malloc(uint64_t bytes) {
  void* address = nullptr;
  return cudaMalloc(&address, bytes);
}

cudaError_t take_pitch(uint64_t bytes) {
  void* address = nullptr;
  size_t pitch = 0;
  return cudaMallocPitch(&address, &pitch, 1, bytes < 512 ? 1 : bytes / 512);
}

cudaError_t take_3d(uint64_t bytes) {
  cudaPitchedPtr address{};
  return cudaMalloc3D(&address, make_cudaExtent(512, bytes < 4096 ? 1 : bytes / 4096, 8));
}

cudaError_t take_managed(uint64_t bytes) {
  void* address = nullptr;
  return cudaMallocManaged(&address, bytes);
}

cudaError_t take_async(uint64_t bytes) {
  void* address = nullptr;
  return cudaMallocAsync(&address, bytes, stream);
}

cudaError_t take_pool(uint64_t bytes) {
  if (pool == nullptr) {
    cudaMemPoolProps props{};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    if (cudaError_t code = cudaMemPoolCreate(&pool, &props)) return code;
  }
  void* address = nullptr;
  return cudaMallocFromPoolAsync(&address, bytes, pool, stream);
}

size_t side(uint64_t elements, double dimensions) {
  const auto n = static_cast<size_t>(std::pow(static_cast<double>(elements), 1 / dimensions));
  return n == 0 ? 1 : n;
}

cudaError_t take_array(uint64_t bytes) {
  cudaArray_t array = nullptr;
  const cudaChannelFormatDesc format = cudaCreateChannelDesc<float4>();
  const size_t n = side(bytes / 16, 2);
  return cudaMallocArray(&array, &format, n, n);
}

cudaError_t take_array_3d(uint64_t bytes) {
  cudaArray_t array = nullptr;
  const cudaChannelFormatDesc format = cudaCreateChannelDesc<float4>();
  const size_t n = side(bytes / 16, 3);
  return cudaMalloc3DArray(&array, &format, make_cudaExtent(n, n, n));
}

cudaError_t take_mipmapped(uint64_t bytes) {
  cudaMipmappedArray_t array = nullptr;
  const cudaChannelFormatDesc format = cudaCreateChannelDesc<float4>();
  const size_t n = side(bytes / 16, 2);
  unsigned int levels = 1;
  for (size_t w = n; w > 1; w /= 2) ++levels;
  return cudaMallocMipmappedArray(&array, &format, make_cudaExtent(n, n, 0), levels);
}

cudaError_t take_graph(uint64_t bytes) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaGraphNode_t node = nullptr;
  cudaMemAllocNodeParams params{};
  params.poolProps.allocType = cudaMemAllocationTypePinned;
  params.poolProps.location.type = cudaMemLocationTypeDevice;
  params.bytesize = bytes;
  cudaError_t code = cudaGraphCreate(&graph, 0);
  if (code == cudaSuccess) code = cudaGraphAddMemAllocNode(&node, graph, nullptr, 0, &params);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&exec, graph, 0);
  if (code == cudaSuccess) code = cudaGraphLaunch(exec, stream);
  return code == cudaSuccess ? cudaStreamSynchronize(stream) : code;
}

// The child opens every piece that the parent takes; the slice is charged once.
int importer_channel = -1;

void importer() {
  cudaIpcMemHandle_t handle;
  while (read(importer_channel, &handle, sizeof handle) == sizeof handle) {
    void* address = nullptr;
    const cudaError_t code = cudaIpcOpenMemHandle(&address, handle, cudaIpcMemLazyEnablePeerAccess);
    if (write(importer_channel, &code, sizeof code) != sizeof code) break;
  }
  _exit(0);
}

cudaError_t take_ipc(uint64_t bytes) {
  void* address = nullptr;
  cudaIpcMemHandle_t handle;
  cudaError_t code = cudaMalloc(&address, bytes);
  if (code == cudaSuccess) code = cudaIpcGetMemHandle(&handle, address);
  if (code != cudaSuccess) return code;
  if (write(importer_channel, &handle, sizeof handle) != sizeof handle) return cudaErrorUnknown;
  return read(importer_channel, &code, sizeof code) == sizeof code ? code : cudaErrorUnknown;
}

constexpr struct {
  const char* name;
  Take take;
} kRoutes[] = {{"malloc", take_malloc},   {"pitch", take_pitch},      {"3d", take_3d},
               {"managed", take_managed}, {"async", take_async},      {"pool", take_pool},
               {"array", take_array},     {"array3d", take_array_3d}, {"mipmapped", take_mipmapped},
               {"graph", take_graph},     {"ipc", take_ipc}};

int print(const std::string& route, uint64_t granted, uint64_t pieces, cudaError_t code) {
  const bool ok = code == cudaErrorMemoryAllocation;
  std::printf(
      "{\"what\":\"route\",\"route\":\"runtime %s\",\"granted\":%llu,\"pieces\":%llu,\"result\":%d,"
      "\"result_name\":\"%s\",\"ok\":%s}\n",
      route.c_str(), static_cast<unsigned long long>(granted),
      static_cast<unsigned long long>(pieces), static_cast<int>(code), cudaGetErrorName(code),
      ok ? "true" : "false");
  return ok ? 0 : 1;
}

void start_importer() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::exit(1);
  const bool child = fork() == 0;
  importer_channel = ends[child ? 1 : 0];
  close(ends[child ? 0 : 1]);
  if (child) importer();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: runtime_route ROUTE SIZE [--cap BYTES] [--hold MS]\n");
    return 2;
  }
  const std::string route = argv[1];
  const uint64_t bytes = parse_size(argv[2]);
  uint64_t cap = 7168 * kMiB;
  int hold_ms = 60;
  for (int i = 3; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--cap")) cap = parse_size(argv[i + 1]);
    if (!std::strcmp(argv[i], "--hold")) hold_ms = std::atoi(argv[i + 1]);
  }
  if (route == "ipc") start_importer();
  if (route == "heap")
    return print(route, 0, 0, cudaDeviceSetLimit(cudaLimitMallocHeapSize, bytes));
  cudaStreamCreate(&stream);
  for (const auto& row : kRoutes) {
    if (route != row.name) continue;
    uint64_t granted = 0, pieces = 0;
    cudaError_t code = cudaSuccess;
    while (granted < cap && (code = row.take(bytes)) == cudaSuccess) granted += bytes, ++pieces;
    usleep(hold_ms * 1000);
    return print(route, granted, pieces, code);
  }
  std::fprintf(stderr, "no such route\n");
  return 2;
}
