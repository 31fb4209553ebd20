// As escapes, for a plugin with RTLD_DEEPBIND: a program of its own, since a library is bound once.
//
//   deepbind LIB PLUGIN
#include "doors/location.h"

int main(int argc, char** argv) {
  using softmig::preload_test::location;
  if (argc != 3) return 2;
  void* plugin = dlopen(argv[2], RTLD_NOW | RTLD_DEEPBIND);
  if (plugin == nullptr) return 2;
  const auto look_up =
      reinterpret_cast<void* (*)(const char*, const char*)>(dlsym(plugin, "plugin_look_up"));
  const auto linked = reinterpret_cast<void* (*)()>(dlsym(plugin, "plugin_linked"));
  printf("deepbind %s\n", location(look_up(argv[1], "cuMemAlloc_v2")).c_str());
  printf("deepbind_linked %s\n", location(linked()).c_str());
  return 0;
}
