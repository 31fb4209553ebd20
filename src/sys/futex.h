// A mutex between the threads of one process, for a library that is there before and after every
// constructor and destructor: constant initialisation, nothing to destroy, no libpthread.
#pragma once

#include <atomic>
#include <cstdint>

namespace softmig::sys {

class Mutex {
 public:
  constexpr Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // Neither recursive nor interruptible: never call the program's code or the driver under it.
  void lock() {
    uint32_t expected = kFree;
    if (!state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire)) wait();
  }
  bool try_lock() {
    uint32_t expected = kFree;
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire);
  }
  void unlock() {
    if (state_.exchange(kFree, std::memory_order_release) == kContended) wake();
  }
  // For a fork child: the thread that held it may not exist here.
  void reset() { state_.store(kFree, std::memory_order_release); }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kContended = 2;
  void wait();
  void wake();

  std::atomic<uint32_t> state_{kFree};
};

}  // namespace softmig::sys
