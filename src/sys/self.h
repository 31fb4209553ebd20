// Who runs this code. Raw system calls: older C libraries cache the pid over vfork and clone.
#pragma once

#include <cstdint>

namespace softmig::sys {

int pid();
uint32_t effective_uid();
uint32_t real_uid();
void yield();

// Keeps errno as it was: a hooked program must not see it change.
class ErrnoGuard {
 public:
  ErrnoGuard();
  ~ErrnoGuard();
  ErrnoGuard(const ErrnoGuard&) = delete;
  ErrnoGuard& operator=(const ErrnoGuard&) = delete;

 private:
  int saved_;
};

// While it lives no handler of the program's runs in this thread, those of its own faults aside.
// errno is unchanged.
class SignalBlock {
 public:
  SignalBlock();
  ~SignalBlock();
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;

 private:
  uint64_t before_ = 0;  // as the kernel counts: signal n is bit n - 1
};

}  // namespace softmig::sys
