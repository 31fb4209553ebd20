// What the driver holds for a job beyond its ledger (code of modules, growth of contexts), as seen
// from outside, look by look.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/bytes.h"

namespace softmig::policy {

// One look at a job on one device, in bytes; the driver's figure and the ledger's are of one
// moment.
struct BeyondLook {
  uint64_t held = 0;     // by the driver's process list
  uint64_t charged = 0;  // to those processes, and to what they exported
  uint64_t ahead = 0;    // of `charged`: reserved for pools that may or may not have grown since
  uint32_t processes = 0;
};

// Of each process with a context the driver keeps so much that its list does not show (H100: 5.6).
inline constexpr uint64_t kUnlistedBytes = 6 * base::kMiB;

// Never negative; what is reserved ahead counts as held.
inline uint64_t beyond_ledger(const BeyondLook& look) {
  return look.held > look.charged ? look.held - look.charged : 0;
}

// What is to be taken off the limit. Of what is reserved ahead for pools nobody knows how much they
// hold by now: none of it where the rest of the ledger stands still; where it moves, what was last
// found goes on as far as it can be true.
class Beyond {
 public:
  uint64_t note(const BeyondLook& look) {
    const uint64_t held = look.held + look.processes * kUnlistedBytes;
    const uint64_t sure = look.charged - std::min(look.ahead, look.charged);
    const uint64_t least = held > look.charged ? held - look.charged : 0;
    const uint64_t most = held > sure ? held - sure : 0;
    estimate_ = sure == sure_ ? most : std::clamp(estimate_, least, most);
    sure_ = sure;
    // What was taken between the driver's figure and the ledger's shows once, what stays twice.
    const uint64_t twice = std::min(estimate_, last_);
    last_ = estimate_;
    return twice;
  }

 private:
  uint64_t sure_ = UINT64_MAX, estimate_ = 0, last_ = 0;
};

}  // namespace softmig::policy
