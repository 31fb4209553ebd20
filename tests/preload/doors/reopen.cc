// A driver that is opened for nobody else, used, closed, and opened again at another address.
//
//   reopen LIB      exit status 0: every call came to the driver that was there
#include <sys/mman.h>

#include "abi/cuda.h"
#include "doors/location.h"

namespace softmig::preload_test {
namespace {

void* driver = nullptr;

template <typename Function>
Function* get(const char* name) {
  return reinterpret_cast<Function*>(dlsym(driver, name));
}

bool expect(bool condition, const char* text) {
  if (!condition) printf("FAIL %s\n", text);
  return condition;
}

// A context and some memory.
bool use() {
  CUcontext context = nullptr;
  CUdeviceptr address = 0;
  size_t free_bytes = 0, total = 0;
  return expect(get<decltype(cuInit)>("cuInit")(0) == CUDA_SUCCESS, "cuInit") &&
         expect(get<decltype(cuCtxCreate_v2)>("cuCtxCreate_v2")(&context, 0, 0) == CUDA_SUCCESS,
                "cuCtxCreate") &&
         expect(get<decltype(cuMemAlloc_v2)>("cuMemAlloc_v2")(&address, 1 << 20) == CUDA_SUCCESS,
                "cuMemAlloc") &&
         expect(
             get<decltype(cuMemGetInfo_v2)>("cuMemGetInfo_v2")(&free_bytes, &total) == CUDA_SUCCESS,
             "cuMemGetInfo") &&
         expect(get<decltype(cuMemFree_v2)>("cuMemFree_v2")(address) == CUDA_SUCCESS,
                "cuMemFree") &&
         expect(get<decltype(cuCtxDestroy_v2)>("cuCtxDestroy_v2")(context) == CUDA_SUCCESS,
                "cuCtxDestroy");
}

// Where the library was, nothing can be any more.
void block(void* base) {
  for (int page = 0; page < 16; page++) {
    mmap(static_cast<char*>(base) + page * 4096, 4096, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  }
}

bool cycle(const char* library, void** last_base) {
  driver = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!expect(driver != nullptr, "dlopen") || !use()) return false;
  Dl_info info;
  dladdr(dlsym(driver, "cuInit"), &info);
  const bool moved = *last_base != info.dli_fbase;
  *last_base = info.dli_fbase;
  dlclose(driver);
  if (dlopen(library, RTLD_NOW | RTLD_NOLOAD) != nullptr) {
    printf("the driver stays loaded after dlclose\n");
    return true;
  }
  block(*last_base);
  return expect(moved, "the library did not move: the test tests nothing") &&
         expect(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2") == nullptr, "found without a driver");
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* base = nullptr;
  for (int i = 0; i < 3; i++) {
    if (!softmig::preload_test::cycle(argv[1], &base)) return 1;
  }
  return 0;
}
