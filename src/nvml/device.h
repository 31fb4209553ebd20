// Which device of the region an NVML handle means.
#pragma once

#include "hook/hook.h"

namespace softmig::nvml {

using hook::active;
using job::slice;

// Index in the region, -1 if the handle is unknown to the driver.
int device_of(nvmlDevice_t handle);

// True if the process with this pid, as the driver names it, belongs to this job.
bool is_own(unsigned int pid);

}  // namespace softmig::nvml
