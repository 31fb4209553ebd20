// Code images: read from memory of exactly their size, so that a step beyond is seen.
#include <cstring>
#include <vector>

#include "fuzz.h"
#include "policy/image.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> image(data, data + size);
  policy::globals_in(image);
  return 0;
}
