// Names of a device as text.
#pragma once

#include <string>

#include "state/layout.h"

namespace softmig::sim {

// "GPU-01234567-89ab-cdef-0123-456789abcdef"
std::string uuid_text(const DeviceRow& device);

// "00000000:1B:00.0"
std::string bus_text(const DeviceRow& device);

}  // namespace softmig::sim
