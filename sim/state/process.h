// The row of this program in the process table, and what it takes from the devices.
#pragma once

#include <cstdint>

#include "state/state.h"

namespace softmig::sim {

class Process {
 public:
  // Takes a row and attaches to the devices whose bit is set in `devices`. Null if the table is
  // full or the file cannot be locked.
  static Process* enter(State* state, uint32_t devices);

  State* state() { return state_; }
  uint32_t index() const { return index_; }
  uint32_t generation() const { return generation_; }
  uint64_t context_listed() const { return state_->file().context_listed; }
  uint64_t context_unlisted() const { return state_->file().context_unlisted; }

  // Device memory of this process; false where the device is full. Bytes, whole pages or not.
  bool take(int device, uint64_t listed, uint64_t unlisted = 0);
  void give(int device, uint64_t listed, uint64_t unlisted = 0);

  // The first of the living processes that touches managed memory on a device takes what the driver
  // keeps for all of them.
  void use_managed(int device);

  // As take and give, for the memory of a context: it also counts the process as one that the lists
  // show.
  bool take_context(int device);
  void give_context(int device);

  // The same with the state's Guard held by the caller.
  bool take_locked(int device, uint64_t listed, uint64_t unlisted);
  void give_locked(int device, uint64_t listed, uint64_t unlisted);

 private:
  Process(State* state, uint32_t index, uint32_t generation)
      : state_(state), index_(index), generation_(generation) {}
  Usage& usage(int device) { return state_->file().processes[index_].usage[device]; }

  State* state_;
  uint32_t index_;
  uint32_t generation_;
};

}  // namespace softmig::sim
