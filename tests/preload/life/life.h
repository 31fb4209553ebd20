// The checks of a process's life, one family a file. Each runs in a process of its own:
//
//   life CHECK      exit status 0: all well, 1: not, with one line a fault, 77: cannot be tried
//   here
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "abi/cuda.h"

namespace softmig::preload_test {

inline constexpr size_t kMiB = size_t{1} << 20;
inline constexpr int kSkipped = 77;

// The driver's functions, found by dlsym on a handle.
struct Driver {
  decltype(&::cuInit) init;
  decltype(&::cuDeviceGetCount) device_count;
  decltype(&::cuCtxCreate_v2) create_context;
  decltype(&::cuCtxDestroy_v2) destroy_context;
  decltype(&::cuCtxGetCurrent) current_context;
  decltype(&::cuCtxSetCurrent) set_context;
  decltype(&::cuMemAlloc_v2) alloc;
  decltype(&::cuMemFree_v2) free;
  decltype(&::cuMemGetInfo_v2) info;
};

// Opens the driver. That alone looks no hooked symbol up.
void* open_library();
Driver find_functions(void* library);
// Finds the functions and makes a context. The process ends if that fails.
Driver start(void* library = open_library());

// Bytes that one more allocation could have, by cuMemGetInfo.
size_t free_bytes(const Driver& driver);

// Says what is wrong; returns `condition`.
bool expect(bool condition, const char* text);
bool expect_result(CUresult result, CUresult expected, const char* text);

// Waits for a child; kills it after `seconds` (an alarm of its own does nothing to process 1 of a
// pid namespace). Returns its status as of waitpid.
int wait_or_kill(pid_t child, unsigned int seconds);

// Runs `body` in a fork child, that ends with this process.
template <typename Body>
int in_child(unsigned int seconds, Body body) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int status = body() ? 0 : 1;
    fflush(stdout);
    _exit(status);
  }
  return wait_or_kill(child, seconds);
}

// All checks of a file, ended by one without a name.
struct Check {
  const char* name;
  bool (*run)();
};
extern const Check kForkChecks[], kEndChecks[], kQuietChecks[], kReuseChecks[];

}  // namespace softmig::preload_test
