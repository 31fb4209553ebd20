// Sizes: whatever is accepted fits 63 bits, can be printed, and is read again as a number of bytes.
#include "base/bytes.h"
#include "fuzz.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t bytes = 77, again = 0;
  if (!base::parse_size(fuzz::text_of(data, size), &bytes)) {
    fuzz::must(bytes == 77);
    return 0;
  }
  fuzz::must(bytes <= INT64_MAX);
  char buffer[64];
  base::Text text(buffer);
  base::add_size(text, bytes);
  fuzz::must(!text.overflowed());
  text.clear();
  text.add_number(bytes);
  fuzz::must(base::parse_size(text.view(), &again) && again == bytes);
  return 0;
}
