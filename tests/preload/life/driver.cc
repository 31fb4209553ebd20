#include <dlfcn.h>

#include <type_traits>

#include "life/life.h"

namespace softmig::preload_test {

void* open_library() { return dlopen("libcuda.so.1", RTLD_NOW); }

Driver find_functions(void* library) {
  if (library == nullptr) exit(kSkipped);
  Driver driver;
  const auto get = [library](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (*function == nullptr) exit(kSkipped);
  };
  get(&driver.init, "cuInit");
  get(&driver.device_count, "cuDeviceGetCount");
  get(&driver.create_context, "cuCtxCreate_v2");
  get(&driver.destroy_context, "cuCtxDestroy_v2");
  get(&driver.current_context, "cuCtxGetCurrent");
  get(&driver.set_context, "cuCtxSetCurrent");
  get(&driver.alloc, "cuMemAlloc_v2");
  get(&driver.free, "cuMemFree_v2");
  get(&driver.info, "cuMemGetInfo_v2");
  return driver;
}

Driver start(void* library) {
  const Driver driver = find_functions(library);
  CUcontext context = nullptr;
  const bool started =
      expect_result(driver.init(0), CUDA_SUCCESS, "cuInit") &&
      expect_result(driver.create_context(&context, 0, 0), CUDA_SUCCESS, "cuCtxCreate");
  if (!started) exit(1);
  return driver;
}

size_t free_bytes(const Driver& driver) {
  size_t free = 0, total = 0;
  expect_result(driver.info(&free, &total), CUDA_SUCCESS, "cuMemGetInfo");
  return free;
}

int wait_or_kill(pid_t child, unsigned int seconds) {
  constexpr useconds_t kStep = 200;
  int status = -1;
  for (uint64_t waited = 0; waitpid(child, &status, WNOHANG) == 0; waited += kStep) {
    if (waited > uint64_t{seconds} * 1'000'000) kill(child, SIGKILL);
    usleep(kStep);
  }
  return status;
}

bool expect(bool condition, const char* text) {
  if (!condition) printf("FAIL %s\n", text);
  return condition;
}

bool expect_result(CUresult result, CUresult expected, const char* text) {
  if (result != expected) printf("FAIL %s: %d, not %d\n", text, result, expected);
  return result == expected;
}

}  // namespace softmig::preload_test
