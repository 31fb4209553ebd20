// test_alloc_host: host memory is not counted against the limit of the slice.
#include "promised/alloc.h"

int main() {
  using namespace softmig::gpu_test;
  Session session;
  std::string step;
  const CUresult opened = session.open(Lookup{}, 0, &step);
  if (opened == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED || opened == CUDA_ERROR_NO_DEVICE) {
    std::printf("SKIP: no GPU (%s)\n", step.c_str());
    return 0;
  }
  if (opened != CUDA_SUCCESS) {
    std::printf("FAIL: %s: %s\n", step.c_str(), error_name(session.driver, opened).c_str());
    return 1;
  }
  const uint64_t before = session.free_bytes();
  void* host = nullptr;
  const CUresult code = session.driver.cuMemHostAlloc(&host, 256 * kMiB, 0);
  const bool ok = code == CUDA_SUCCESS && session.free_bytes() == before;
  std::printf("%s: cuMemHostAlloc of 256 MiB: %s, free memory of the slice %s\n",
              ok ? "PASS" : "FAIL", error_name(session.driver, code).c_str(),
              session.free_bytes() == before ? "unchanged" : "changed");
  if (host != nullptr) session.driver.cuMemFreeHost(host);
  return ok ? 0 : 1;
}
