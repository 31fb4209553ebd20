// own_malloc: a program with an allocator of its own that finds the C library's with dlsym on its
// first call, as tcmalloc-like tools do. With a preload that exports dlsym, the first malloc of the
// process then runs inside somebody's dlsym: nothing may recurse or hang. Ends like `route alloc`.
#include <dlfcn.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>

#include "common/gpu.h"

namespace {

using Malloc = void* (*)(size_t);
using Free = void (*)(void*);

alignas(16) char early[64 * 1024];  // for what dlsym itself allocates
size_t early_used = 0;
thread_local bool looking = false;
Malloc real_malloc = nullptr;
Free real_free = nullptr;
unsigned long calls = 0;

void* from_early(size_t bytes) {
  bytes = (bytes + 15) / 16 * 16;
  if (early_used + bytes > sizeof early) return nullptr;
  early_used += bytes;
  return early + early_used - bytes;
}

void* counted_malloc(size_t bytes) {
  ++calls;
  if (looking) return from_early(bytes);
  if (real_malloc == nullptr) {
    looking = true;
    real_malloc = reinterpret_cast<Malloc>(dlsym(RTLD_NEXT, "malloc"));
    real_free = reinterpret_cast<Free>(dlsym(RTLD_NEXT, "free"));
    looking = false;
  }
  return real_malloc(bytes);
}

}  // namespace

extern "C" void* malloc(size_t bytes) { return counted_malloc(bytes); }

extern "C" void free(void* address) {
  const char* at = static_cast<char*>(address);
  if (address == nullptr || (at >= early && at < early + sizeof early)) return;
  if (real_free != nullptr) real_free(address);
}

extern "C" void* calloc(size_t count, size_t bytes) {
  void* address = counted_malloc(count * bytes);
  return address != nullptr ? std::memset(address, 0, count * bytes) : nullptr;
}

extern "C" void* realloc(void* address, size_t bytes) {
  using Realloc = void* (*)(void*, size_t);
  static Realloc next = nullptr;
  if (address == nullptr) return counted_malloc(bytes);
  const char* at = static_cast<char*>(address);
  if (at >= early && at < early + sizeof early) {
    void* moved = counted_malloc(bytes);
    return moved != nullptr ? std::memcpy(moved, address, bytes) : nullptr;
  }
  if (next == nullptr) next = reinterpret_cast<Realloc>(dlsym(RTLD_NEXT, "realloc"));
  return next(address, bytes);
}

int main() {
  using namespace softmig::gpu_test;
  Session session;
  std::string step;
  Line line("check");
  line.add("name", "own_malloc");
  CUresult code = session.open(Lookup{}, 0, &step);
  uint64_t granted = 0;
  while (code == CUDA_SUCCESS && granted < 7 * kGiB) {
    CUdeviceptr address = 0;
    code = session.driver.cuMemAlloc_v2(&address, 64 * kMiB);
    if (code == CUDA_SUCCESS) granted += 64 * kMiB;
  }
  const bool ok = code == CUDA_ERROR_OUT_OF_MEMORY && calls > 0;
  line.add("granted", granted).add("result", code).add("ok", ok).print();
  return ok ? 0 : 1;
}
