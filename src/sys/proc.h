// Processes, as /proc shows them.
#pragma once

#include <cstdint>

namespace softmig::sys {

int pid();
uint32_t effective_uid();
void yield();

struct ProcessState {
  bool exists = false;       // there is such a pid
  bool dead = false;         // it is a zombie without living threads
  uint64_t start_ticks = 0;  // since boot
};
// proc_root is "/proc" outside of tests.
ProcessState process_state(const char* proc_root, uint32_t pid);

// True if the process (pid, start time modulo 2^40) is no more: gone, dead, or the pid is another's.
// False whenever /proc cannot tell.
bool is_gone(const char* proc_root, uint32_t pid, uint64_t start_ticks);

uint64_t own_start_ticks();
// Inode of this process's pid namespace, 0 if unknown.
uint64_t pid_namespace();

}  // namespace softmig::sys
