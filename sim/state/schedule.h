// How the kernels of all processes share the devices: who runs when.
//
// Contexts of one device take turns, in the order of their rows: a slice of time each while others
// want the device, and all of it otherwise. A context that has nothing to run is passed over at
// once. Putting another context there costs time (`switch`), and so does the first kernel that it
// begins then (`refill`).
//
// Within a context, lanes run at the same time. A kernel asks for a part of the device; what came
// first (of equal priority) gets what it asks for, the next what is left. With less than it asks
// for it takes as much longer.
//
// Nothing runs by itself. Any process brings the schedule to the present moment whenever it looks;
// the schedule moves from event to event and changes nothing between them, so that what it comes to
// depends on what was submitted when, not on who looked how often.
//
// Pure arithmetic on the state file: no clock, no lock. Times are CLOCK_MONOTONIC in ns. Everything
// needs the state's Guard, and `now` never goes backwards.
#pragma once

#include <cstdint>

#include "state/layout.h"

namespace softmig::sim {

class Schedule {
 public:
  explicit Schedule(StateFile* file) : file_(file) {}

  // Brings all devices to that time.
  void advance(uint64_t now);

  // A context of the process, with its first lane, or one more lane. -1: there is no free row.
  int make_context(uint32_t process, uint32_t generation, uint32_t device);
  int add_lane(uint32_t context);
  // Ends a context with all its work.
  void drop_context(uint32_t context, uint64_t now);
  // The same for the contexts of processes whose row is no longer theirs.
  void drop_orphans(uint64_t now);

  // Appends to a lane that has room. Returns the operation's number. The schedule is at `now`.
  uint64_t put(uint32_t lane, const Op& op, uint64_t now);

  bool is_done(uint32_t lane, uint64_t number) const;
  // Whether the operation is the first of its lane that is not done.
  bool is_first(uint32_t lane, uint64_t number) const;
  // Ends a kHold, or a kernel wherever it is, now (a kernel that another context keeps from the
  // device: as soon as it has its turn).
  void let_go(uint32_t lane, uint64_t number, uint64_t now);

  // That operation will not be done before this time; `now` if it is done. Exact where the context
  // has the device for itself and the lane waits for no other.
  uint64_t earliest(uint32_t lane, uint64_t number, uint64_t now) const;

  // Whether contexts wait for the device that another one has.
  bool is_contended(uint32_t device) const;

  // Adds to the figures of its process what has been running until now.
  void book(uint64_t now);

  // Computes what follows from the rows, after a death in the midst of a change.
  void repair(uint64_t now);

 private:
  const Op& op_at(const LaneRow& lane, uint64_t number) const {
    return lane.ops[number % kLaneOps];
  }
  ContextRow* resident(const Engine& engine) const;
  bool wants(const ContextRow& context) const;
  bool has_kernel_or_mark(const LaneRow& lane) const;
  static bool is_idle(OpKind kind) { return kind == OpKind::kWait || kind == OpKind::kHold; }
  bool is_satisfied(const LaneRow& lane, const Op& wait) const;
  uint32_t next_that_wants(uint32_t device, uint32_t after) const;

  void settle_all(uint32_t device, uint64_t now);
  void settle_waiting(uint64_t now);
  bool settle(uint32_t device, uint64_t now);
  bool finish_kernels(const Engine& engine, uint64_t now);
  bool finish_waits(uint32_t device, uint64_t now);
  void choose(uint32_t device, uint64_t now);
  bool run(Engine* engine, uint64_t now);
  bool share_out(const ContextRow& context, uint64_t now);
  bool is_cold_start(const Engine& engine, const ContextRow& context, uint64_t now) const;
  void switch_to(Engine* engine, uint32_t context, uint64_t now);
  void pause(Engine* engine, uint64_t now);
  void complete(LaneRow* lane, uint64_t now);
  void note_busy(Engine* engine, uint64_t now);
  void account(Engine* engine, uint64_t now);
  void plan(uint32_t device, uint64_t now);
  uint64_t earliest_of(uint32_t lane, uint64_t number, uint64_t now, int depth) const;
  uint64_t earliest_turn(const Engine& engine, uint64_t now) const;
  uint64_t work_until(const LaneRow& lane, uint64_t number, uint64_t now) const;
  void free_lane(LaneRow* lane);

  StateFile* file_;
};

}  // namespace softmig::sim
