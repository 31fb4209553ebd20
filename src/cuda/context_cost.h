// What a context costs on a device, in bytes.
#pragma once

#include <cstdint>

#include "abi/cuda.h"

namespace softmig::cuda {

// SOFTMIG_CONTEXT_COST of the config; else what `softmig calibrate` measured for this model and
// driver (/var/lib/softmig/context_cost); else a careful guess from the number of processors.
uint64_t context_cost(CUdevice ordinal);

}  // namespace softmig::cuda
