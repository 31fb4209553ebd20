// test_alloc_host: host memory is not counted against the limit of the slice.
#include "promised/alloc.h"

int main() {
  using namespace softmig::gpu_test;
  Session session;
  if (const auto status = end_without_gpu(&session)) return *status;
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
