// The components of a heterogeneous job. A step has the first one's id in SLURM_JOB_ID, whichever
// component it belongs to; the ids of all stand beside it.
#pragma once

#include <cstdint>

#include "base/text.h"

namespace softmig::job {

// Offers the components' ids in their order until `accept(id)` is true; whether it ever was.
// `number(name)`: a variable of the step's environment, 0 if it is none or no number.
template <typename Number, typename Accept>
bool find_component(Number number, Accept accept) {
  constexpr uint64_t kMostComponents = 128;  // MAX_HET_JOB_COMPS of Slurm
  const uint64_t count = number("SLURM_HET_SIZE");
  for (uint64_t i = 0; i < count && i < kMostComponents; i++) {
    char name[64];
    base::Text(name).add("SLURM_JOB_ID_HET_GROUP_").add_number(i);
    const uint64_t id = number(name);
    if (id != 0 && accept(id)) return true;
  }
  return false;
}

}  // namespace softmig::job
