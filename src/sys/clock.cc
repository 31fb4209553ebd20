#include "sys/clock.h"

#include <time.h>

#include "sys/self.h"

namespace softmig::sys {
namespace {
uint64_t read_clock(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}
}  // namespace

uint64_t monotonic_ns() { return read_clock(CLOCK_MONOTONIC); }
uint64_t coarse_ns() { return read_clock(CLOCK_MONOTONIC_COARSE); }
uint64_t realtime_ns() { return read_clock(CLOCK_REALTIME); }
uint64_t thread_cpu_ns() { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

void sleep_ns(uint64_t duration) {
  const ErrnoGuard guard;
  timespec left = {static_cast<time_t>(duration / 1'000'000'000),
                   static_cast<long>(duration % 1'000'000'000)};
  while (nanosleep(&left, &left) != 0) {
  }
}

}  // namespace softmig::sys
