// Installed setuid root and started by somebody else: uses CUDA as root would and says what it got.
//
//   privileged LIBRARY MIB     prints "uid EUID", "secure N", "alloc RESULT"
#include <dlfcn.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  printf("uid %u\nsecure %lu\n", geteuid(), getauxval(AT_SECURE));
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) return 3;
  const auto create =
      reinterpret_cast<int (*)(void**, unsigned, int)>(dlsym(library, "cuCtxCreate_v2"));
  const auto alloc =
      reinterpret_cast<int (*)(unsigned long*, unsigned long)>(dlsym(library, "cuMemAlloc_v2"));
  void* context = nullptr;
  unsigned long address = 0;
  const int created = create(&context, 0, 0);
  printf("alloc %d\n",
         created != 0 ? created : alloc(&address, strtoul(argv[2], nullptr, 10) << 20));
  return 0;
}
