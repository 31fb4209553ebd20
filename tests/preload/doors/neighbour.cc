// A library that is preloaded beside ours, as a profiler or somebody's own interposer is. Built
// several times: NEIGHBOUR_NAME tells them apart, NEIGHBOUR_INTERPOSES lets it stand before a
// driver function itself.
#include <dlfcn.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

extern "C" {

// No tail calls: RTLD_NEXT goes by who called.
void* JOIN(NEIGHBOUR_NAME, _next)(const char* name) {
  void* volatile found = dlsym(RTLD_NEXT, name);
  return found;
}
void* JOIN(NEIGHBOUR_NAME, _default)(const char* name) {
  void* volatile found = dlsym(RTLD_DEFAULT, name);
  return found;
}

#ifdef NEIGHBOUR_INTERPOSES
int cuMemAlloc_v2(unsigned long* out, unsigned long bytes) {
  using Function = int (*)(unsigned long*, unsigned long);
  const auto next = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "cuMemAlloc_v2"));
  return next != nullptr ? next(out, bytes) : 100;
}
#endif
}
