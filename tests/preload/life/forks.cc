// fork, vfork, clone and exec, at every moment.
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "life/life.h"

extern char** environ;

namespace softmig::preload_test {
namespace {

constexpr unsigned int kPatience = 10;  // seconds until a child counts as hanging
constexpr const char* kHooked = "cuMemAlloc_v2";

bool ended_well(int status, const char* text) {
  if (WIFSIGNALED(status)) printf("FAIL %s: signal %d\n", text, WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) printf("FAIL %s: failed\n", text);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// What a child of a process that uses CUDA may do: look up, ask, be told something. No hang.
bool touch(const Driver& driver) {
  size_t free = 0, total = 0;
  CUdeviceptr address = 0;
  driver.info(&free, &total);
  if (driver.alloc(&address, kMiB) == CUDA_SUCCESS) driver.free(address);
  return dlsym(RTLD_DEFAULT, "no_such_symbol") == nullptr &&
         dlsym(open_library(), kHooked) != nullptr;
}

void spin(int microseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < end) {
  }
}

// One thread is in the process's very first look-up while another forks: the child must not wait
// for a thread that it does not have.
bool during_the_first_look_up() {
  bool good = true;
  for (int round = 0; round < 300 && good; round++) {
    const int status = in_child(2 * kPatience, [round] {
      void* library = open_library();
      std::atomic<bool> go{false};
      std::thread first([&] {
        while (!go.load()) {
        }
        dlsym(library, kHooked);
      });
      go.store(true);
      spin(round);
      const int child =
          in_child(kPatience, [library] { return dlsym(library, kHooked) != nullptr; });
      first.join();
      return ended_well(child, "a child of a process in its first look-up");
    });
    good = ended_well(status, "a process in its first look-up");
  }
  return good;
}

template <typename Body>
bool fork_beside(int forks, const Driver& driver, Body body) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&] {
      while (!stop.load()) body();
    });
  bool good = true;
  for (int i = 0; i < forks && good; i++) {
    good = ended_well(in_child(kPatience, [&] { return touch(driver); }), "a fork child");
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  return good;
}

bool while_threads_allocate() {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  const bool good = fork_beside(200, driver, [&] {
    CUdeviceptr address = 0;
    if (driver.alloc(&address, 4 * kMiB) == CUDA_SUCCESS) driver.free(address);
  });
  return expect(free_bytes(driver) == before, "free bytes after all that") && good;
}

bool while_threads_look_up() {
  const Driver driver = start();
  void* library = open_library();
  return fork_beside(400, driver, [library] { dlsym(library, kHooked); });
}

// The child is numbered in a namespace of its own: as process 1, as its own child will be.
bool across_pid_namespaces() {
  const Driver driver = start();
  const auto body = [&] { return touch(driver); };
  const auto in_new_namespace = [](auto next) {
    return unshare(CLONE_NEWPID) == 0 && ended_well(in_child(kPatience, next), "process 1");
  };
  if (geteuid() != 0) exit(kSkipped);
  const int status = in_child(2 * kPatience, [&] {
    return in_new_namespace([&] { return body() && in_new_namespace(body); });
  });
  return ended_well(status, "the outer process");
}

// What a child in another pid namespace holds is not given away while it lives.
bool held_in_another_pid_namespace() {
  if (geteuid() != 0) exit(kSkipped);
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  int ready[2], done[2];
  if (pipe(ready) != 0 || pipe(done) != 0) return false;
  const pid_t middle = fork();
  if (middle == 0) {
    close(done[1]);
    const auto body = [&] {
      CUdeviceptr address = 0;
      char byte = 0;
      const bool held = driver.alloc(&address, 1024 * kMiB) == CUDA_SUCCESS;
      return write(ready[1], held ? "1" : "0", 1) == 1 && read(done[0], &byte, 1) == 0;
    };
    if (unshare(CLONE_NEWPID) != 0) _exit(kSkipped);
    _exit(ended_well(in_child(kPatience, body), "the holder") ? 0 : 1);
  }
  char held = '?';
  CUdeviceptr address = 0;
  close(ready[1]);
  bool good = read(ready[0], &held, 1) == 1;
  if (held == '1') {
    good &= expect_result(driver.alloc(&address, before), CUDA_ERROR_OUT_OF_MEMORY,
                          "all memory while a child holds some") &&
            expect(free_bytes(driver) == before - 1024 * kMiB, "free bytes beside the child");
  }
  close(done[1]);
  int status = 0;
  waitpid(middle, &status, 0);
  return good && ended_well(status, "the process between");
}

// A child that shares the memory of its parent until it starts a program.
bool vfork_and_exec() {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  bool good = true;
  for (int i = 0; i < 50 && good; i++) {
    char program[] = "/bin/true";
    char* const arguments[] = {program, nullptr};
    const pid_t child = vfork();
    if (child == 0) {
      execve(program, arguments, environ);
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    pid_t spawned = 0;
    good = ended_well(status, "vfork and exec") &&
           expect(posix_spawn(&spawned, program, nullptr, nullptr, arguments, environ) == 0,
                  "posix_spawn");
    waitpid(spawned, &status, 0);
    good &= ended_well(status, "a spawned program");
  }
  return expect(free_bytes(driver) == before, "free bytes afterwards") && good;
}

// fork without the C library's own handlers.
bool raw_clone() {
  const Driver driver = start();
  for (int i = 0; i < 20; i++) {
    const long child = syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
      size_t free = 0, total = 0;
      driver.info(&free, &total);
      syscall(SYS_exit_group, 0);
    }
    const int status = wait_or_kill(static_cast<pid_t>(child), kPatience);
    if (!ended_well(status, "a cloned child")) return false;
  }
  return true;
}

// exec of another program: the driver has given back what the old one held, and so must we.
bool exec_of_another_program() {
  const Driver driver = start();
  const size_t before = free_bytes(driver);
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    CUdeviceptr address = 0;
    const CUresult result = driver.alloc(&address, 1024 * kMiB);
    if (result != CUDA_SUCCESS) _exit(kSkipped);
    execl("/bin/sleep", "sleep", "60", nullptr);
    _exit(1);
  }
  char byte;
  close(ready[1]);
  const bool started = read(ready[0], &byte, 1) == 0;  // closed by exec or by the end
  usleep(100'000);
  CUdeviceptr address = 0;
  int status = 0;
  if (waitpid(child, &status, WNOHANG) == child) exit(kSkipped);
  const CUresult result = driver.alloc(&address, before);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return expect(started, "the start of the other program") &&
         expect_result(result, CUDA_SUCCESS, "all memory beside a program that uses none");
}

// The same pid and start time, but a new program: what the old one held is not held any more.
constexpr const char* kFreeBefore = "TEST_FREE_BEFORE";

bool exec_of_itself() {
  const Driver driver = start();
  const char* expected = getenv(kFreeBefore);
  const size_t before = free_bytes(driver);
  if (expected != nullptr) {
    return expect(before == strtoull(expected, nullptr, 10), "free bytes after exec");
  }
  CUdeviceptr address = 0;
  if (!expect_result(driver.alloc(&address, 1024 * kMiB), CUDA_SUCCESS, "1 GiB")) return false;
  setenv(kFreeBefore, std::to_string(before).c_str(), 1);
  execl("/proc/self/exe", "life", "exec_of_itself", nullptr);
  return false;
}

}  // namespace

const Check kForkChecks[] = {{"fork_during_the_first_look_up", during_the_first_look_up},
                             {"fork_while_threads_allocate", while_threads_allocate},
                             {"fork_while_threads_look_up", while_threads_look_up},
                             {"fork_across_pid_namespaces", across_pid_namespaces},
                             {"held_in_another_pid_namespace", held_in_another_pid_namespace},
                             {"vfork_and_exec", vfork_and_exec},
                             {"raw_clone", raw_clone},
                             {"exec_of_itself", exec_of_itself},
                             {"exec_of_another_program", exec_of_another_program},
                             {nullptr, nullptr}};

}  // namespace softmig::preload_test
