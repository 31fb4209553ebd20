// Sizes: whatever is accepted fits 63 bits and is read again from its exact form.
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
  base::add_exact_size(text, bytes / base::kKiB * base::kKiB);
  fuzz::must(base::parse_size(text.view(), &again) && again == bytes / base::kKiB * base::kKiB);
  return 0;
}
