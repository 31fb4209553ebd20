// The board of a GPU: one small file per slot, in which the job that has the slot says until when
// it fills it, and until when work goes on that it launched in its turn (policy/turn.h). Jobs that
// cannot fill their own slots keep out of those that are filled, and may use the others.
//
// Files are "<directory>/<device key, 16 hex digits>.<slot>", two words each, made by root and
// given to the slot's user (`softmig job-start`); where the directory is the user's own (`softmig
// run`) jobs make them. A slot without a file is nobody's. What another job writes there is about
// its own slot and nothing else. A file is opened, used and closed, so that nothing is kept that a
// program could close or a fork could inherit.
#pragma once

#include <cstdint>

#include "job/region.h"
#include "policy/turn.h"

namespace softmig::job {

// Claims the slots of `mask` until `until_ns` (CLOCK_MONOTONIC); 0: no longer. Where that fails
// nobody else will take them for open either.
void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, uint64_t until_ns);

// "<directory>/<device key>.<slot>". False if it does not fit.
bool board_file(const char* directory, uint64_t device_key, uint32_t slot, char (&path)[kMaxPath]);

// Slots of 0..count-1 that nobody claims at `now`, bits of `skip` left out. None where there is no
// such directory, or a file cannot be read.
uint32_t open_slots(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                    uint64_t now);

// What the job's turn that begins with a slot has to say.
void tell_turn(const char* directory, uint64_t device_key, const policy::Notice& notice);

// What slots of 0..count-1 say, bits of `skip` left out; 0 for those that say nothing.
void read_turns(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                policy::TurnBoard& board);

}  // namespace softmig::job
