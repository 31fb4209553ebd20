// fork, exec, exit, dlclose: what a process leaves behind and what it inherits.
#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "common/peer.h"
#include "lifecycle/checks.h"

extern char** environ;

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kHeld = 512 * kMiB;
constexpr const char* kExpectedFree = "TEST_EXPECTED_FREE";

CUresult open_and_hold(Session* session, uint64_t bytes) {
  std::string step;
  CUresult code = session->open(Lookup{}, 0, &step);
  CUdeviceptr address = 0;
  if (code == CUDA_SUCCESS && bytes > 0) code = session->driver.cuMemAlloc_v2(&address, bytes);
  return code;
}

// Two processes count together, to the byte.
void fork_before_init(Checks::Report& report) {
  Child child([](Channel& channel) {
    char go = 0;
    channel.get(&go);
    Session session;
    channel.put(open_and_hold(&session, 0));
    channel.get(&go);
    CUdeviceptr address = 0;
    channel.put(session.driver.cuMemAlloc_v2(&address, kHeld));
    channel.get(&go);
    return 0;
  });
  Session session;
  if (!open(&session, report)) return;
  const uint64_t alone = session.free_bytes();
  CUresult code = CUDA_ERROR_UNKNOWN;
  child.channel().put('1');
  child.channel().get(&code);
  report.result(code, CUDA_SUCCESS, "the child's context");
  const uint64_t with_context = session.free_bytes();
  report.expect(with_context < alone, "the child's context takes nothing from the slice");
  child.channel().put('2');
  child.channel().get(&code);
  report.result(code, CUDA_SUCCESS, "the child's memory");
  report.equal(session.free_bytes(), with_context - kHeld, "free while the child holds 512 MiB");
  expect_exactly_free(session, report, "beside the child");
  child.channel().put('3');
  report.equal(static_cast<uint64_t>(child.wait()), 0, "exit status of the child");
  report.equal(free_after_a_death(session, alone), alone, "free after the child has gone");
  report.note("context_mib", static_cast<double>(alone - with_context) / kMiB);
}

// As a DataLoader worker: the child owns nothing of what it inherits and must not hang or give
// anything back.
void fork_after_init(Checks::Report& report) {
  Session session;
  if (!report.result(open_and_hold(&session, kHeld), CUDA_SUCCESS, "512 MiB before the fork"))
    return;
  const uint64_t before = session.free_bytes();
  const Driver& d = session.driver;
  Child child([&d](Channel&) {
    size_t free = 0, total = 0;
    CUdeviceptr address = 0;
    d.cuMemGetInfo_v2(&free, &total);
    d.cuMemAlloc_v2(&address, kPage);
    dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2");
    return 0;
  });
  report.equal(static_cast<uint64_t>(child.wait(20000)), 0, "exit status of the child");
  report.equal(free_after_a_death(session, before), before, "free after the child has gone");
  expect_exactly_free(session, report, "after the fork");
}

void fork_grandchild_outlives(Checks::Report& report) {
  Session session;
  if (!open(&session, report)) return;
  const uint64_t before = session.free_bytes();
  pid_t grandchild = 0;
  {
    // posix_spawn, so that the middle process is a fresh program and may use CUDA.
    char* const arguments[] = {const_cast<char*>("lifecycle"), const_cast<char*>("_hold_and_fork"),
                               nullptr};
    int ends[2] = {-1, -1};
    if (pipe(ends) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    pid_t middle = 0;
    posix_spawn(&middle, "/proc/self/exe", &actions, nullptr, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    const bool told = read(ends[0], &grandchild, sizeof grandchild) == sizeof grandchild;
    close(ends[0]);
    int status = 0;
    waitpid(middle, &status, 0);
    report.expect(told && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the holder did not run");
  }
  CUdeviceptr address = 0;
  report.result(session.driver.cuMemAlloc_v2(&address, takable(before)), CUDA_SUCCESS,
                "what the dead parent of a living child held");
  session.driver.cuMemFree_v2(address);
  report.equal(session.free_bytes(), before, "free after the holder has gone");
  if (grandchild > 0) kill(grandchild, SIGKILL);
}

// Helper of the check above, a program of its own.
void hold_and_fork(Checks::Report& report) {
  Session session;
  if (!report.result(open_and_hold(&session, kHeld), CUDA_SUCCESS, "512 MiB")) return;
  const pid_t child = fork();
  if (child == 0) {
    close(STDOUT_FILENO);
    sleep(60);
    _exit(0);
  }
  if (write(STDOUT_FILENO, &child, sizeof child) != sizeof child) _exit(1);
  _exit(0);
}

// The same pid and start time, but a new program: it has none of the old one's memory.
void exec_self(Checks::Report& report) {
  Session session;
  if (!open(&session, report)) return;
  const std::string free = std::to_string(session.free_bytes());
  CUdeviceptr address = 0;
  report.result(session.driver.cuMemAlloc_v2(&address, kGiB), CUDA_SUCCESS, "1 GiB before exec");
  setenv(kExpectedFree, free.c_str(), 1);
  execl("/proc/self/exe", "lifecycle", "_after_exec", nullptr);
  report.expect(false, "exec failed");
}

void after_exec(Checks::Report& report) {
  Session session;
  if (!open(&session, report)) return;
  const char* expected = getenv(kExpectedFree);
  if (!report.expect(expected != nullptr, "run me from exec_self")) return;
  report.equal(session.free_bytes(), std::strtoull(expected, nullptr, 10), "free after exec");
  expect_exactly_free(session, report, "after exec");
}

void exit_without_free(Checks::Report& report) {
  Child child([](Channel& channel) {
    char go = 0;
    channel.get(&go);
    Session session;
    channel.put(open_and_hold(&session, kGiB));
    channel.get(&go);
    return 0;
  });
  Session session;
  if (!open(&session, report)) return;
  const uint64_t before = session.free_bytes();
  CUresult code = CUDA_ERROR_UNKNOWN;
  child.channel().put('1');
  child.channel().get(&code);
  report.result(code, CUDA_SUCCESS, "the child's memory");
  report.expect(session.free_bytes() + kGiB < before, "the child's memory is not counted");
  child.channel().put('2');
  child.wait();
  CUdeviceptr address = 0;
  report.result(session.driver.cuMemAlloc_v2(&address, takable(before)), CUDA_SUCCESS,
                "all of it at once");
  session.driver.cuMemFree_v2(address);
  report.equal(session.free_bytes(), before, "free after the child has gone");
}

void spawn_others(Checks::Report& report) {
  Session session;
  if (!open(&session, report)) return;
  const uint64_t before = session.free_bytes();
  char* const arguments[] = {const_cast<char*>("true"), nullptr};
  pid_t pid = 0;
  int status = -1;
  report.expect(posix_spawn(&pid, "/bin/true", nullptr, nullptr, arguments, environ) == 0,
                "posix_spawn");
  waitpid(pid, &status, 0);
  report.expect(status == 0, "/bin/true by posix_spawn");
  pid = vfork();
  if (pid == 0) {
    execve("/bin/true", arguments, environ);
    _exit(127);
  }
  waitpid(pid, &status, 0);
  report.expect(status == 0, "/bin/true by vfork and exec");
  report.equal(session.free_bytes(), before, "free afterwards");
}

// The driver is unloaded and loaded again, as a plugin host does.
void dlclose_and_again(Checks::Report& report) {
  for (int round = 0; round < 3; ++round) {
    void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!report.expect(handle != nullptr, "dlopen")) return;
    Session s;
    load_from(handle, &s.driver);
    report.result(s.driver.cuInit(0), CUDA_SUCCESS, "cuInit");
    report.result(s.driver.cuDevicePrimaryCtxRetain(&s.context, 0), CUDA_SUCCESS, "retain");
    report.result(s.driver.cuCtxSetCurrent(s.context), CUDA_SUCCESS, "cuCtxSetCurrent");
    expect_exactly_free(s, report, "round " + std::to_string(round));
    report.result(s.driver.cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS, "release");
    report.expect(dlclose(handle) == 0, "dlclose");
  }
  report.note("unloaded", dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) == nullptr ? 1 : 0);
}

}  // namespace

void add_process_checks(Checks* checks) {
  checks->add("fork_before_init", fork_before_init);
  checks->add("fork_after_init", fork_after_init);
  checks->add("fork_grandchild_outlives", fork_grandchild_outlives);
  checks->add_hidden("_hold_and_fork", hold_and_fork);
  checks->add("exec_self", exec_self);
  checks->add_hidden("_after_exec", after_exec);
  checks->add("exit_without_free", exit_without_free);
  checks->add("spawn_others", spawn_others);
  checks->add("dlclose_and_again", dlclose_and_again);
}

}  // namespace softmig::gpu_test
