// When a process's kernels ran, for NVML's utilisation figures.
#pragma once

#include <cstdint>

#include "state/layout.h"

namespace softmig::sim {

uint64_t monotonic_ns();

// A kernel runs from begin to end. Where it overlaps what was added before, it counts once.
void add_activity(Activity* activity, uint64_t begin_ns, uint64_t end_ns);

// Nanoseconds with a kernel running within [begin, end); up to six seconds back.
uint64_t busy_within(const Activity& activity, uint64_t begin_ns, uint64_t end_ns);

}  // namespace softmig::sim
