// What the driver holds for a job beyond the ledger, measured from outside: "<region>.extra"
// (layout: abi::ExtraPage), written by `softmig run` or the node's agent, read by the library.
#pragma once

#include "abi/region.h"

namespace softmig::job {

// A page that was written longer ago says nothing any more: its writer is gone.
inline constexpr uint64_t kExtraLifetimeNs = 10'000'000'000;

// Reads and checks the page of this region. False: there is none. A page that nobody keeps up to
// date is read as one without devices. Refused are links, files of another user (root's are fine)
// and anything that is not exactly a page.
bool read_extra_page(const char* region_path, abi::ExtraPage* page);

// Replaces the page of this region by rename; fills in magic, version and time. 0 or an errno.
int write_extra_page(const char* region_path, abi::ExtraPage* page);

}  // namespace softmig::job
