// Which time of the last second and a half the job has paid for, so that work which overlaps (on
// several streams, in several processes) is charged once.
//
// A ring of cells in shared memory. Work that ran from `begin` to `end` and is said to have cost c
// pours c into the cells of that interval, from its end backwards: what had to wait for others ran
// at the end of its time, so whatever the order of the reports, what ran one after the other fits.
// A cell holds no more than its own length; what does not fit was somebody else's time and is not
// charged. Two processes that are switched against each other each pour half of the interval in
// which they ran, and both fit; two kernels that ran at once do not. A cell that is older than a
// lap of the ring is emptied by whoever comes first; a report that is older still is charged in
// full.
//
// Lock-free, and any process may die in the midst of it. Pure: times are arguments.
#pragma once

#include <cstdint>

#include "abi/region.h"

namespace softmig::policy {

inline constexpr uint64_t kBusyCellNs = 1 << 15;  // 33 us: two short kernels may share one unseen
inline constexpr uint32_t kBusyCellsPerWord = 6;
inline constexpr uint64_t kBusyLapNs = kBusyCellNs * kBusyCellsPerWord * abi::kBusyWords;
inline constexpr uint64_t kBusyUnitNs = 1 << 8;  // a full cell holds 128 of them

// Pours `cost` ns into [begin, end); returns how much of it fitted, at most `cost`. Rounding errors
// are below a unit per cell and go either way.
uint64_t pour(abi::RegionBusy& busy, uint64_t begin, uint64_t end, uint64_t cost);

}  // namespace softmig::policy
