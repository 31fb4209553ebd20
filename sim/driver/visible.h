// Which devices a program sees, and in which order: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.
#pragma once

#include <vector>

#include "state/layout.h"

namespace softmig::sim {

// Indices into file.devices. `list`: CUDA_VISIBLE_DEVICES, null if it is not set; `order`:
// CUDA_DEVICE_ORDER or null. The first entry that names no device, or one that was named before,
// ends the list.
std::vector<int> visible_devices(const StateFile& file, const char* list, const char* order);

}  // namespace softmig::sim
