// The board of a GPU: one small file per slot, in which the job that has the slot says until when
// it fills it, and until when its work may end long after the slot. Jobs that cannot fill their own
// slots keep out of those that are filled, and may use the others.
//
// Files are "<directory>/<device key, 16 hex digits>.<slot>", made by root and given to the slot's
// user (`softmig job-start`); where the directory is the user's own (`softmig run`) jobs make them.
// A slot without a file is nobody's. What another job writes there is a claim on its own slot and
// nothing else. A file is opened, used and closed, so that nothing is kept that a program could
// close or a fork could inherit.
#pragma once

#include <cstdint>

#include "job/region.h"

namespace softmig::job {

// What the owner of a slot says. Times of CLOCK_MONOTONIC; 0: no longer, or never.
struct SlotClaim {
  uint64_t until_ns;       // it fills the slot
  uint64_t late_until_ns;  // its kernels are long, and run on into the next slot
};

// Says it of the slots of `mask`. Where that fails nobody else will take them for open either.
void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, SlotClaim claim);

// "<directory>/<device key>.<slot>". False if it does not fit.
bool board_file(const char* directory, uint64_t device_key, uint32_t slot, char (&path)[kMaxPath]);

struct BoardLook {
  uint32_t open = 0;    // slots that nobody claims
  bool on_time = true;  // nobody's work ends late
};
// Looks at slots 0..count-1 but those of `skip`. Where there is no such directory, or a file cannot
// be read, nothing is open and nobody on time.
BoardLook look_at_board(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                        uint64_t now);

}  // namespace softmig::job
