// The ways to the driver's own functions that no preloaded library can close (docs/security.md),
// each tried: "WAY PLACE" a line. The test states what is expected, so that a change is noticed.
//
//   escapes LIB PLUGIN
#include <dlfcn.h>
#include <link.h>

#include "doors/location.h"

namespace softmig::preload_test {
namespace {

constexpr const char* kHooked = "cuMemAlloc_v2";
using LookUp = void* (*)(const char*, const char*);
using Linked = void* (*)();

void say(const char* way, const void* found) { printf("%s %s\n", way, location(found).c_str()); }

// Through the library's own symbol table; its string table follows right behind.
const void* walk(void* handle) {
  link_map* map = nullptr;
  dlinfo(handle, RTLD_DI_LINKMAP, &map);
  const ElfW(Sym)* symbols = nullptr;
  const char* strings = nullptr;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_STRTAB) strings = reinterpret_cast<const char*>(entry->d_un.d_ptr);
  }
  for (; reinterpret_cast<const char*>(symbols) < strings; symbols++) {
    if (strcmp(strings + symbols->st_name, kHooked) != 0) continue;
    return reinterpret_cast<const void*>(map->l_addr + symbols->st_value);
  }
  return nullptr;
}

void try_plugin(const char* way, void* plugin, const char* library) {
  if (plugin == nullptr) return say(way, nullptr);
  const auto look_up = reinterpret_cast<LookUp>(dlsym(plugin, "plugin_look_up"));
  const auto linked = reinterpret_cast<Linked>(dlsym(plugin, "plugin_linked"));
  say(way, look_up(library, kHooked));
  say((std::string(way) + "_linked").c_str(), linked());
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  if (argc != 3) return 2;
  void* driver = dlopen(argv[1], RTLD_NOW);
  if (driver == nullptr) return 2;
  say("handle", dlsym(driver, kHooked));
  say("walk", walk(driver));
  try_plugin("plain", dlopen(argv[2], RTLD_NOW), argv[1]);
  void* spaced = dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW);
  say("dlmopen_handle", spaced != nullptr ? dlsym(spaced, kHooked) : nullptr);
  try_plugin("dlmopen_plugin", dlmopen(LM_ID_NEWLM, argv[2], RTLD_NOW), argv[1]);
  return 0;
}
