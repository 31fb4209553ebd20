// The first question for the mode, which reads the job's config and maps its region.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "job/slice.h"
#include "scratch.h"

namespace softmig::job {
namespace {

std::atomic<int> handler_calls{0};
void ask_in_handler(int) {
  g_slice.mode();
  handler_calls++;
}

// Asks for the mode while a signal comes after `microseconds`, whose handler asks as well.
int asked_twice(int microseconds) {
  struct sigaction action = {};
  action.sa_handler = ask_in_handler;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval once = {{0, 0}, {0, microseconds}};
  setitimer(ITIMER_REAL, &once, nullptr);
  const Mode mode = g_slice.mode();
  while (handler_calls == 0) usleep(1000);
  return mode == Mode::kActive && g_slice.mode() == Mode::kActive ? 0 : 1;
}

// Status of a child as of waitpid; -1: it had to be killed.
int wait_or_kill(pid_t child) {
  for (int i = 0; i < 10'000; i++) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) return status;
    usleep(1000);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return -1;
}

// A profiler's handler, say: it interrupts the one thread that could end the wait.
TEST(SliceStart, IsNotWaitedForByAHandlerOfItsOwnThread) {
  const testing::Scratch scratch;
  for (int round = 0; round < 150; round++) {
    const pid_t child = fork();
    if (child == 0) {
      setenv("CUDA_DEVICE_MEMORY_LIMIT", "1G", 1);
      setenv("SOFTMIG_REGION", scratch.path("region").c_str(), 1);
      setenv("SOFTMIG_LOG_FILE", scratch.path("log").c_str(), 1);
      _exit(asked_twice(1 + 2 * round));
    }
    ASSERT_EQ(wait_or_kill(child), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace softmig::job
