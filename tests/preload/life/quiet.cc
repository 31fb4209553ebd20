// What a program must not notice.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "life/life.h"

namespace softmig::preload_test {
namespace {

constexpr int kSomeErrno = 4711;

// errno is the program's; the small driver never touches it. Looks of a second and more apart take
// the way through the config as well.
bool errno_is_kept() {
  bool good = true;
  const auto unchanged = [&good](const char* text) {
    good &= expect(errno == kSomeErrno, text);
    errno = kSomeErrno;
  };
  void* library = open_library();
  errno = kSomeErrno;
  dlsym(library, "cuMemAlloc_v2");
  unchanged("errno after the first look-up");
  const Driver driver = find_functions(library);
  CUcontext context = nullptr;
  CUdeviceptr address = 0, refused = 0;
  size_t free = 0, total = 0;
  errno = kSomeErrno;
  driver.init(0);
  unchanged("errno after cuInit");
  driver.create_context(&context, 0, 0);
  unchanged("errno after cuCtxCreate");
  for (int i = 0; i < 3; i++) {
    driver.alloc(&address, kMiB);
    unchanged("errno after cuMemAlloc");
    driver.alloc(&refused, size_t{1} << 50);
    unchanged("errno after a refusal");
    driver.info(&free, &total);
    unchanged("errno after cuMemGetInfo");
    driver.free(address);
    unchanged("errno after cuMemFree");
    usleep(600'000);
    errno = kSomeErrno;
  }
  driver.destroy_context(context);
  unchanged("errno after cuCtxDestroy");
  const int status = in_child(20, [&] {
    errno = kSomeErrno;
    driver.info(&free, &total);
    unchanged("errno after the first call of a fork child");
    return good;
  });
  return good && status == 0;
}

bool context_is_kept() {
  const Driver driver = start();
  CUcontext first = nullptr, second = nullptr, now = nullptr;
  driver.current_context(&first);
  driver.create_context(&second, 0, 0);
  driver.set_context(first);
  bool good = true;
  const auto still = [&](CUcontext expected, const char* text) {
    driver.current_context(&now);
    good &= expect(now == expected, text);
  };
  CUdeviceptr address = 0, refused = 0;
  driver.alloc(&address, kMiB);
  still(first, "the context after cuMemAlloc");
  driver.alloc(&refused, size_t{1} << 50);
  still(first, "the context after a refusal");
  free_bytes(driver);
  still(first, "the context after cuMemGetInfo");
  while (driver.current_context(&now) == CUDA_SUCCESS && now != nullptr)
    driver.set_context(nullptr);
  driver.free(address);
  driver.alloc(&refused, kMiB);
  still(nullptr, "no context after calls without one");
  return good;
}

std::atomic<int> signals_seen{0};
void count_signal(int) { signals_seen++; }

// Handlers for every signal stay the program's, and a storm of signals does no harm.
bool signals_are_the_programs() {
  struct sigaction ours = {}, after = {};
  ours.sa_handler = count_signal;
  bool set[65] = {};  // not SIGKILL, SIGSTOP and what the C library keeps for itself
  for (int i = 1; i <= 64; i++) set[i] = sigaction(i, &ours, nullptr) == 0;
  itimerval storm = {{0, 200}, {0, 200}};
  setitimer(ITIMER_REAL, &storm, nullptr);
  const Driver driver = start();
  const size_t free = free_bytes(driver);
  bool good = true;
  for (int i = 0; i < 10'000'000 && good && signals_seen < 200; i++) {
    CUdeviceptr address = 0;
    good = expect_result(driver.alloc(&address, kMiB), CUDA_SUCCESS, "an allocation in a storm") &&
           expect_result(driver.free(address), CUDA_SUCCESS, "a free in a storm");
  }
  storm = {};
  setitimer(ITIMER_REAL, &storm, nullptr);
  for (int i = 1; i <= 64; i++) {
    sigaction(i, nullptr, &after);
    good &= expect(!set[i] || after.sa_handler == count_signal, "a signal's handler");
  }
  return expect(signals_seen >= 200, "signals came") && good &&
         expect(free_bytes(driver) == free, "free bytes after a storm");
}

// A handler that itself calls CUDA, as a crash reporter or a profiler's sampling timer may.
std::atomic<int> handler_calls{0};
void look_up_in_handler(int) {
  handler_calls++;
  dlsym(RTLD_DEFAULT, "cuMemFree_v2");
}

bool look_ups_in_signal_handlers() {
  alarm(60);  // a dead lock must end
  struct sigaction ours = {};
  ours.sa_handler = look_up_in_handler;
  ours.sa_flags = SA_RESTART;
  sigaction(SIGVTALRM, &ours, nullptr);
  itimerval storm = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_VIRTUAL, &storm, nullptr);
  const Driver driver = start();
  while (handler_calls < 200) {
    CUdeviceptr address = 0;
    if (driver.alloc(&address, kMiB) == CUDA_SUCCESS) driver.free(address);
  }
  storm = {};
  setitimer(ITIMER_VIRTUAL, &storm, nullptr);
  return true;
}

// Threads that all make the process's first call: one place in the region, one charge each.
bool threads_race_to_be_first() {
  bool good = true;
  for (int round = 0; round < 20 && good; round++) {
    const int status = in_child(30, [] {
      void* library = open_library();
      std::atomic<int> waiting{0}, found{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < 16; i++) {
        threads.emplace_back([&] {
          waiting++;
          while (waiting < 16) {
          }
          found += dlsym(library, "cuMemAlloc_v2") != nullptr;
        });
      }
      for (std::thread& thread : threads) thread.join();
      const Driver driver = start();
      const size_t before = free_bytes(driver);
      CUdeviceptr address = 0;
      return expect(found == 16, "look-ups that found nothing") &&
             expect_result(driver.alloc(&address, before), CUDA_SUCCESS, "all memory") &&
             expect(free_bytes(driver) < 2 * kMiB, "memory left over");
    });
    good = expect(status == 0, "a process whose threads race");
  }
  return good;
}

// A first call on a small stack, as of a coroutine.
bool small_stack() {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 32 * 1024);
  pthread_t thread;
  const auto body = [](void*) -> void* {
    CUdeviceptr address = 0;
    const Driver driver = start();
    const CUresult result = driver.alloc(&address, size_t{1} << 50);
    return reinterpret_cast<void*>(static_cast<uintptr_t>(result));
  };
  void* result = nullptr;
  if (pthread_create(&thread, &attributes, body, nullptr) != 0) return false;
  pthread_join(thread, &result);
  return expect(reinterpret_cast<uintptr_t>(result) == CUDA_ERROR_OUT_OF_MEMORY, "a refusal");
}

// All descriptors are closed under us, as daemons do.
bool closed_descriptors() {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  CUdeviceptr address = 0;
  const int kept = dup(1);
  for (int fd = 0; fd < 1024; fd++) {
    if (fd != kept) close(fd);
  }
  bool good = driver.alloc(&address, before) == CUDA_SUCCESS;
  good &= driver.alloc(&address, 4 * kMiB) == CUDA_ERROR_OUT_OF_MEMORY;
  usleep(1'100'000);
  good &= free_bytes(driver) == 0;
  dup2(kept, 1);
  return expect(good, "calls without open files");
}

// No more descriptors, no file may grow: before the process's first look-up.
bool limited(__rlimit_resource resource) {
  void* library = open_library();
  const rlimit none = {0, 0};
  setrlimit(resource, &none);
  const Driver driver = start(library);
  CUdeviceptr address = 0;
  return expect_result(driver.alloc(&address, kMiB), CUDA_SUCCESS, "cuMemAlloc") &&
         expect_result(driver.alloc(&address, 4096 * kMiB), CUDA_ERROR_OUT_OF_MEMORY, "too much");
}

bool no_descriptors() { return limited(RLIMIT_NOFILE); }
bool no_file_size() { return limited(RLIMIT_FSIZE); }

bool no_threads_of_ours() {
  const Driver driver = start();
  CUdeviceptr address = 0;
  driver.alloc(&address, kMiB);
  struct stat status = {};
  // "." and ".." and one thread.
  return expect(stat("/proc/self/task", &status) == 0 && status.st_nlink == 3, "one thread");
}

}  // namespace

const Check kQuietChecks[] = {{"errno_is_kept", errno_is_kept},
                              {"context_is_kept", context_is_kept},
                              {"signals_are_the_programs", signals_are_the_programs},
                              {"look_ups_in_signal_handlers", look_ups_in_signal_handlers},
                              {"threads_race_to_be_first", threads_race_to_be_first},
                              {"small_stack", small_stack},
                              {"closed_descriptors", closed_descriptors},
                              {"no_descriptors", no_descriptors},
                              {"no_file_size", no_file_size},
                              {"no_threads_of_ours", no_threads_of_ours},
                              {nullptr, nullptr}};

}  // namespace softmig::preload_test
