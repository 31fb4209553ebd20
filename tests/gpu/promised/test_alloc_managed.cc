// test_alloc_managed: cuMemAllocManaged until it is refused; the memory is never touched.
#include "promised/alloc.h"

int main() {
  using namespace softmig::gpu_test;
  return take_until_refused("cuMemAllocManaged", [](const Session& session, uint64_t bytes) {
    CUdeviceptr address = 0;
    return session.driver.cuMemAllocManaged(&address, bytes, CU_MEM_ATTACH_GLOBAL);
  });
}
