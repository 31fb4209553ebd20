// Values in memory that work waits for, and that work writes when its turn comes.
//
// What waits is let go by a thread that exists while there is something to wait for and looks at
// the values several times a millisecond.
#pragma once

#include <cstdint>

#include "driver/work.h"

namespace softmig::sim {

struct Condition {
  uint64_t address = 0;
  uint64_t value = 0;
  unsigned int bytes = 4;
  unsigned int compare = 0;  // CUstreamWaitValue_flags
};

// What the stream gets from now on waits until the condition holds; that takes no part of the
// device.
void hold(Stream* stream, const Condition& condition);
// A kernel that runs until the condition holds.
void spin(Stream* stream, const Condition& condition, uint32_t fill);
// A kernel that writes `number` when it begins, runs until the condition holds, and then for as
// long as `work` says.
void meet(Stream* stream, const Condition& number, const Condition& condition, const Work& work);
// Writes when all that is in the stream is done.
void write_later(Stream* stream, uint64_t address, uint64_t value, unsigned int bytes);

}  // namespace softmig::sim
