// "<region>.extra": what the driver holds for the job beyond the ledger (abi::ExtraPage).
#pragma once

#include "abi/region.h"

namespace softmig::job {

// Reads and validates the page beside a region. False if there is none, it is malformed, or older
// than a few seconds.
bool read_extra_page(const char* region_path, abi::ExtraPage* page);

}  // namespace softmig::job
