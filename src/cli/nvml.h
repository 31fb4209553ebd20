// The driver's own figures: host/nvml.h, under the names that this folder uses.
#pragma once

#include "host/nvml.h"

namespace softmig::cli {

using host::Nvml;
using host::NvmlDevice;
using host::NvmlMemory;
using host::NvmlProcess;

}  // namespace softmig::cli
