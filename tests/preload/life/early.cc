// Uses CUDA before main and after exit, from the constructor and destructor of a preloaded library.
#include <dlfcn.h>
#include <stdio.h>

namespace {

unsigned long address = 0;
int (*release)(unsigned long) = nullptr;

__attribute__((constructor)) void begin() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) return;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(library, "cuInit"));
  const auto create =
      reinterpret_cast<int (*)(void**, unsigned, int)>(dlsym(library, "cuCtxCreate_v2"));
  const auto alloc =
      reinterpret_cast<int (*)(unsigned long*, unsigned long)>(dlsym(library, "cuMemAlloc_v2"));
  release = reinterpret_cast<int (*)(unsigned long)>(dlsym(library, "cuMemFree_v2"));
  void* context = nullptr;
  unsigned long refused = 0;
  const int results[] = {init(0), create(&context, 0, 0), alloc(&address, 1 << 20),
                         alloc(&refused, 1ul << 50)};
  for (int result : results) printf("early %d\n", result);
}

__attribute__((destructor)) void end() {
  if (release != nullptr) printf("late %d\n", release(address));
  fflush(stdout);
}

}  // namespace
