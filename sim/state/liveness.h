// Whether the program that took a row of the process table still runs.
//
// A row is backed by a lock on one byte of the state file that exactly one thing keeps: a private
// mapping of this program image. The lock belongs to an open file description whose descriptor is
// closed at once; the mapping alone holds it open. It ends with exec, exit or any kill; a forked
// child does not inherit it (MADV_DONTFORK), and a program that closes all its descriptors does
// not lose it. As a second proof the process with that id must have the same start time.
#pragma once

#include <cstdint>

#include "state/state.h"

namespace softmig::sim {

// `fd`: a descriptor of the state file (open_state_again), or -1: then only /proc is asked.
bool is_alive(int fd, const ProcessRow& row, uint32_t index, State::Care care);

// Locks row `index` for this program image. False if it is locked or the file is gone.
bool hold_image_lock(const State& state, uint32_t index);

// Inode of the pid namespace that this process is in.
uint64_t own_pid_namespace();

// Field 22 of /proc/PID/stat, or 0 if there is no such process (or it is a zombie).
uint64_t process_start_time(int pid);

}  // namespace softmig::sim
