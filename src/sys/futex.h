// A mutex of one word: no initialisation, no destructor, no library behind it.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace softmig::sys {

class Mutex {
 public:
  void lock() {
    uint32_t state = kFree;
    if (word_.compare_exchange_strong(state, kHeld, std::memory_order_acquire)) return;
    lock_slowly();
  }
  void unlock() {
    if (word_.exchange(kFree, std::memory_order_release) == kContended) wake();
  }
  // In a fork child: whoever held it does not exist here.
  void reset() { word_.store(kFree, std::memory_order_release); }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kContended = 2;

  void lock_slowly() {
    const int saved = errno;
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) {
      syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, kContended, nullptr, nullptr, 0);
    }
    errno = saved;
  }
  void wake() {
    const int saved = errno;
    syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    errno = saved;
  }

  std::atomic<uint32_t> word_{kFree};
};

}  // namespace softmig::sys
