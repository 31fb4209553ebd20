// test_alloc: cuMemAlloc until it is refused.
#include "promised/alloc.h"

int main() {
  using namespace softmig::gpu_test;
  return take_until_refused("cuMemAlloc", [](const Session& session, uint64_t bytes) {
    CUdeviceptr address = 0;
    return session.driver.cuMemAlloc_v2(&address, bytes);
  });
}
