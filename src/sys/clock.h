// Clocks in nanoseconds. Neither call changes errno.
#pragma once

#include <cstdint>

namespace softmig::sys {

uint64_t monotonic_ns();           // CLOCK_MONOTONIC
void sleep_ns(uint64_t duration);  // not cut short by signals
uint64_t realtime_ns();            // CLOCK_REALTIME: since 1970, UTC

}  // namespace softmig::sys
