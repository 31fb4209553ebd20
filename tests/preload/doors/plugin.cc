// A plugin that looks up CUDA by itself; loaded with RTLD_DEEPBIND or in a namespace of its own,
// its dlsym is the C library's.
#include <dlfcn.h>

extern "C" {
[[gnu::weak]] int cuMemAlloc_v2();

void* plugin_look_up(const char* library, const char* name) {
  void* volatile found = dlsym(dlopen(library, RTLD_NOW), name);
  return found;
}
void* plugin_linked() { return reinterpret_cast<void*>(&cuMemAlloc_v2); }
}
