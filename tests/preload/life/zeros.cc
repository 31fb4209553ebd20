// Calls every function of the driver that the library stands before with nothing but zeros, as
// wrong programs do: it must answer as the driver does, leave errno as the driver does, and live.
//
//   zeros LIB NAMES       prints "NAME RESULT kept|changed", or "NAME signal N"
#include <dlfcn.h>
#include <errno.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#include "life/life.h"

namespace softmig::preload_test {
namespace {

constexpr int kSomeErrno = 4711;
using AnyFunction = int (*)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                            uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);

// In a child each: what a function does to the process is no matter of the next one.
void call(void* library, const std::string& name) {
  const int status = in_child(10, [&] {
    if (name.starts_with("cu")) start();
    const auto function = reinterpret_cast<AnyFunction>(dlsym(library, name.c_str()));
    if (function == nullptr) return printf("%s missing\n", name.c_str()) > 0;
    errno = kSomeErrno;
    const int result = function(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const bool kept = errno == kSomeErrno;
    printf("%s %d %s\n", name.c_str(), result, kept ? "kept" : "changed");
    return true;
  });
  if (WIFSIGNALED(status)) printf("%s signal %d\n", name.c_str(), WTERMSIG(status));
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  if (argc != 3) return 2;
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) return 2;
  std::ifstream names(argv[2]);
  for (std::string name; std::getline(names, name);) call(library, name);
  return 0;
}
