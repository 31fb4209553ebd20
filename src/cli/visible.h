// CUDA_VISIBLE_DEVICES over NVML's devices.
#pragma once

#include <vector>

#include "cli/nvml.h"

namespace softmig::cli {

// The devices that CUDA shows with this list, in its order. Numbers are taken as nvidia-smi's,
// which are CUDA's wherever all cards are alike; like CUDA, it stops at the first entry that names
// nothing. Null (the variable is not set): all.
std::vector<const NvmlDevice*> visible_in(const char* list, const std::vector<NvmlDevice>& devices);

}  // namespace softmig::cli
