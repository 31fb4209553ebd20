// Processes as /proc shows them.
#pragma once

#include <cstdint>
#include <string_view>

#include "sys/self.h"

namespace softmig::sys {

struct ProcessState {
  bool exists = false;
  bool dead = false;         // a zombie, or on its way out, without a thread that still runs
  uint64_t start_ticks = 0;  // clock ticks from boot to its start; 0: not known
  uint64_t image =
      0;  // of where code and stack lie, which execve changes; 0: not known, or not for us to see
};

// Reads a line of /proc/<pid>/stat. The name in it may hold blanks and parentheses. False if this
// is no such line.
bool parse_process_stat(std::string_view line, ProcessState* state);

// State of the process `pid` as numbered by this process. Where `proc_root` does not show it
// (hidepid, /proc of another pid namespace, none mounted) a signal 0 says whether it exists. errno
// unchanged.
ProcessState process_state(const char* proc_root, int pid);

// The process that had this pid, start time (its abi::kStartMask) and image (0: not known) runs no
// more, or runs another program since. When in doubt: false.
bool is_gone(const char* proc_root, uint32_t pid, uint64_t start_ticks, uint64_t image = 0);

// This process; not kept, because a fork child is another. Zeroes if /proc does not tell.
ProcessState own_state();
uint64_t own_start_ticks();

// Inodes that name this process's namespaces; 0 if the kernel or /proc has none. Pids can only be
// compared within one pid namespace, start times only within one time namespace.
uint64_t pid_namespace();
uint64_t time_namespace();

}  // namespace softmig::sys
