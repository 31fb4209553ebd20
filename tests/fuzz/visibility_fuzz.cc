// CUDA_VISIBLE_DEVICES.
#include "fuzz.h"
#include "policy/visibility.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (int ordinal = -1; ordinal < 20; ordinal++) {
    fuzz::must(policy::visible_index(fuzz::text_of(data, size), ordinal) >= -1);
  }
  return 0;
}
