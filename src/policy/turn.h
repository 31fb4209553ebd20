// Slots and turns. A frame is cut into slots on the clock; a job's neighbouring slots make its
// turn.
//
// A running kernel cannot be cut, so one that begins in a turn may end in the next job's. If that
// job began all the same the two would take turns on the GPU, both would end late, and all stay
// overlapped for ever. So a job whose work goes on beyond its turn says so on the board, and whose
// turn comes after it waits until then, and has its turn that much longer: what is late is passed
// on, until somebody who owes time does not use it. What others say holds a job for half a frame at
// most.
//
// Pure: the time is an argument, CLOCK_MONOTONIC in ns.
#pragma once

#include <atomic>
#include <cstdint>

#include "abi/region.h"

namespace softmig::policy {

struct ShareRule;

// What the jobs on a GPU say of their slots: until when the work goes on that was launched in the
// turn that began with a slot.
struct TurnBoard {
  std::atomic<uint64_t> until_ns[32];
};

// A launch takes this long to reach the GPU: it may be made before the slot begins.
inline constexpr uint64_t kLeadNs = 60'000;

// Where a moment lies in the frame.
struct SlotPlace {
  bool own = true;
  uint64_t since_ns = 0;          // own: since the turn began; by less than the lead also before it
  uint64_t left_ns = UINT64_MAX;  // own: until its end
  uint64_t until_ns = 0;          // not own: until the next turn begins
  uint32_t first_slot = 0;        // own: with which the turn began
};
SlotPlace slot_at(const ShareRule& rule, uint64_t now);

// Until when work goes on that was launched in turns that began before `turn_ns`; 0: none does.
uint64_t late_until(const ShareRule& rule, const TurnBoard& board, uint64_t turn_ns, uint64_t now);

// Whether the board should be read before the next launch is asked for.
bool asks_board(const abi::RegionShare& share, const ShareRule& rule, uint64_t now);
// Begins a turn, or waits for who is late, as the board says.
void follow_board(abi::RegionShare& share, const ShareRule& rule, const TurnBoard& board,
                  uint64_t now);

// What is to be written to the board; until_ns 0: nothing new.
struct Notice {
  uint32_t slot = 0;
  uint64_t until_ns = 0;
};
// Work of `cost` was launched, or waits for its turn to begin, and ends at `end`.
Notice tell_board(abi::RegionShare& share, const ShareRule& rule, uint64_t cost, uint64_t end);

}  // namespace softmig::policy
