// What dlerror says around look-ups of driver functions: one line per step, so that a run with the
// library can be compared with one without.
//
//   errors none|LIB      LIB: a driver that is opened for all (RTLD_GLOBAL)
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr const char* kHooked = "cuMemAlloc_v2";

// dlerror's texts begin with the object that was searched; what follows is compared.
void say(const char* step, const void* found) {
  const char* error = dlerror();
  const char* text = error != nullptr ? strstr(error, ": ") : nullptr;
  printf("%s: %s%s\n", step, found != nullptr ? "found" : "nothing",
         error == nullptr ? "" : (text != nullptr ? text : error));
  printf("  again: %s\n", dlerror() == nullptr ? "nothing" : "an error");
}

}  // namespace

int main(int argc, char** argv) {
  const bool driver = argc > 1 && strcmp(argv[1], "none") != 0;
  if (driver && dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) return 2;
  void* self = dlopen(nullptr, RTLD_NOW);
  void* handle = driver ? dlopen(argv[1], RTLD_NOW) : self;
  say("unknown in a handle", dlsym(handle, "no_such_symbol"));
  say("unknown anywhere", dlsym(RTLD_DEFAULT, "no_such_symbol"));
  say("unknown after us", dlsym(RTLD_NEXT, "no_such_symbol"));
  say("hooked in a handle", dlsym(handle, kHooked));
  say("hooked in the program", dlsym(self, kHooked));
  say("hooked anywhere", dlsym(RTLD_DEFAULT, kHooked));
  say("hooked after us", dlsym(RTLD_NEXT, kHooked));
  say("hooked after us again", dlsym(RTLD_NEXT, kHooked));
  say("hooked, versioned", dlvsym(RTLD_DEFAULT, kHooked, "GLIBC_2.2.5"));
  say("libc, wrong version", dlvsym(RTLD_DEFAULT, "malloc", "GLIBC_9.9"));
  // A look-up that succeeds takes away the error of the one before.
  dlsym(self, "no_such_symbol");
  say("hooked after an error", dlsym(handle, kHooked));
  dlsym(self, "no_such_symbol");
  say("hooked anywhere after an error", dlsym(RTLD_DEFAULT, kHooked));
  dlopen("no_such_library.so", RTLD_NOW);
  say("hooked next after an error", dlsym(RTLD_NEXT, kHooked));
  if (!driver) return 0;
  // A hook that runs between leaves the error alone.
  const auto query = reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(handle, "cuMemGetInfo_v2"));
  size_t free_bytes = 0, total = 0;
  dlopen("no_such_library.so", RTLD_NOW);
  if (query != nullptr) query(&free_bytes, &total);
  say("an error before a call", nullptr);
  return 0;
}
