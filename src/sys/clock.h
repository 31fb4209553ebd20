// Clocks in nanoseconds. No call changes errno, and reading is no call to the kernel
// unless said.
#pragma once

#include <cstdint>

namespace softmig::sys {

uint64_t monotonic_ns();  // CLOCK_MONOTONIC
uint64_t coarse_ns();     // the same, of the last tick (4 to 10 ms), for a quarter of the time
void sleep_ns(uint64_t duration);  // not cut short by signals
uint64_t realtime_ns();            // CLOCK_REALTIME: since 1970, UTC
uint64_t thread_cpu_ns();          // what this thread has run; asks the kernel

}  // namespace softmig::sys
