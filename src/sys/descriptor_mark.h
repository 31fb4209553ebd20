// A mark on an open file that travels with it to other processes (SCM_RIGHTS, pidfd_getfd): the
// owner and the signal number of asynchronous I/O, which nothing uses while O_ASYNC is off.
#pragma once

#include <cstdint>

namespace softmig::sys {

// Marks the descriptor's open file with this process and a number from 0 to 61. False if the kernel
// would not.
bool write_mark(int descriptor, uint32_t mark);
// The mark, and the pid of the process that made it as seen from here (0: dead, or not visible).
// False if there is no mark.
bool read_mark(int descriptor, uint32_t* mark, uint32_t* pid);

}  // namespace softmig::sys
