#include "sys/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/self.h"

namespace softmig::sys {

// Whoever has waited takes the mutex as contended, because there may be more who wait.
void Mutex::wait() {
  const ErrnoGuard keep_errno;
  while (state_.exchange(kContended, std::memory_order_acquire) != kFree) {
    syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, kContended, nullptr, nullptr, 0);
  }
}

void Mutex::wake() {
  const ErrnoGuard keep_errno;
  syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace softmig::sys
