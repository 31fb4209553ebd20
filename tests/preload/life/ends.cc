// How processes end, and what they leave to those that stay.
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "life/life.h"

namespace softmig::preload_test {
namespace {

constexpr size_t kHeld = 1024 * kMiB;

// A child program that holds memory, and a pipe whose closing tells it to end.
class Holder {
 public:
  // `end` is run by the child when it is told to.
  template <typename Body, typename End>
  Holder(const Driver& driver, Body body, End end) {
    int ready[2], stop[2];
    if (pipe(ready) != 0 || pipe(stop) != 0) exit(2);
    fflush(stdout);
    child_ = fork();
    if (child_ == 0) {
      close(ready[0]);
      close(stop[1]);
      body(driver, [&](bool good) {
        if (write(ready[1], good ? "1" : "0", 1) != 1) _exit(2);
        char byte;
        while (read(stop[0], &byte, 1) < 0) {
        }
        end();
      });
      _exit(0);
    }
    close(ready[1]);
    close(stop[0]);
    char byte = '0';
    good_ = read(ready[0], &byte, 1) == 1 && byte == '1';
    close(ready[0]);
    stop_ = stop[1];
  }
  bool good() const { return good_; }
  pid_t pid() const { return child_; }
  int finish() {
    close(stop_);
    int status = 0;
    waitpid(child_, &status, 0);
    return status;
  }

 private:
  pid_t child_ = 0;
  int stop_ = -1;
  bool good_ = false;
};

bool hold(const Driver& driver) {
  CUdeviceptr address = 0;
  return driver.alloc(&address, kHeld) == CUDA_SUCCESS;
}

// An allocation that may be refused for a moment, until a death is noticed: milliseconds, tried for
// longer because the machine may be busy.
CUresult alloc_soon(const Driver& driver, CUdeviceptr* address, size_t bytes) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  while (result == CUDA_ERROR_OUT_OF_MEMORY && std::chrono::steady_clock::now() < end) {
    result = driver.alloc(address, bytes);
  }
  return result;
}

// Refused while the holder lives, granted at once when it is gone.
template <typename Body, typename End>
bool memory_comes_back(Body body, End end, bool kill_it) {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  Holder holder(driver, body, end);
  if (!expect(holder.good(), "the holder's memory")) return false;
  CUdeviceptr address = 0;
  bool good = expect_result(driver.alloc(&address, before), CUDA_ERROR_OUT_OF_MEMORY,
                            "all memory while it is held");
  if (kill_it) kill(holder.pid(), SIGKILL);
  holder.finish();
  good &=
      expect_result(alloc_soon(driver, &address, before), CUDA_SUCCESS, "all memory afterwards");
  driver.free(address);
  return good && expect(free_bytes(driver) == before, "free bytes afterwards");
}

void hold_and_wait(const Driver& driver, const auto& wait) { wait(hold(driver)); }

bool killed() {
  return memory_comes_back([](const Driver& d, const auto& wait) { hold_and_wait(d, wait); }, [] {},
                           true);
}

bool quick_exit_of_process() {
  return memory_comes_back([](const Driver& d, const auto& wait) { hold_and_wait(d, wait); },
                           [] { _exit(3); }, false);
}

bool aborted() {
  return memory_comes_back([](const Driver& d, const auto& wait) { hold_and_wait(d, wait); },
                           [] {
                             signal(SIGABRT, SIG_DFL);
                             abort();
                           },
                           false);
}

// The first thread is gone, /proc shows a zombie, and another one still holds the memory.
bool leader_ended() {
  return memory_comes_back(
      [](const Driver& d, const auto& wait) {
        const pthread_t leader = pthread_self();
        std::thread([&] {
          pthread_join(leader, nullptr);
          hold_and_wait(d, wait);
          _exit(0);
        }).detach();
        pthread_exit(nullptr);
      },
      [] {}, true);
}

// Killed at some moment of many: nothing drifts, nothing hangs.
bool killed_at_random() {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  bool good = true;
  for (int round = 0; round < 60 && good; round++) {
    const pid_t child = fork();
    if (child == 0) {
      std::vector<std::thread> threads;
      for (int i = 0; i < 3; i++) {
        threads.emplace_back([&driver] {
          for (;;) {
            CUdeviceptr address = 0;
            if (driver.alloc(&address, 2 * kMiB) == CUDA_SUCCESS) driver.free(address);
          }
        });
      }
      for (;;) pause();
    }
    usleep(static_cast<useconds_t>(500 + round * 137 % 2000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    CUdeviceptr address = 0;
    good = expect_result(alloc_soon(driver, &address, before), CUDA_SUCCESS,
                         "all memory after a kill");
    driver.free(address);
  }
  return expect(free_bytes(driver) == before, "free bytes afterwards") && good;
}

// Hooks are called until the very end: by atexit handlers, and by destructors after them.
const Driver* at_end = nullptr;
CUdeviceptr left = 0;

void free_at_exit() {
  if (at_end->free(left) != CUDA_SUCCESS) _exit(5);
}

bool exit_handlers() {
  static const Driver driver = start();
  at_end = &driver;
  atexit(free_at_exit);
  return expect_result(driver.alloc(&left, kMiB), CUDA_SUCCESS, "an allocation");
}

}  // namespace

const Check kEndChecks[] = {{"killed", killed},
                            {"quick_exit", quick_exit_of_process},
                            {"aborted", aborted},
                            {"leader_ended", leader_ended},
                            {"killed_at_random", killed_at_random},
                            {"exit_handlers", exit_handlers},
                            {nullptr, nullptr}};

}  // namespace softmig::preload_test
