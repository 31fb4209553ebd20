// The file of measured context costs.
#include "fuzz.h"
#include "job/calibration.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const char* driver : {"", "580.1"}) {
    uint64_t bytes = 0;
    const bool found =
        job::find_context_cost(fuzz::text_of(data, size), driver, "NVIDIA H100", &bytes);
    fuzz::must(found == (bytes != 0));
  }
  return 0;
}
