// Prints all that a process has of the system and that a library could disturb: open files,
// signals, masks, environment, limits. Before, during and after the use of CUDA; compared between
// runs.
//
//   state [NO_CUDA]
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "life/life.h"

extern char** environ;

namespace softmig::preload_test {
namespace {

// The rows of /proc/self/status that are the same in every run.
constexpr const char* kStable[] = {
    "Umask:",  "State:",      "Threads:", "SigPnd:",     "ShdPnd:", "SigBlk:",
    "SigIgn:", "SigCgt:",     "CapInh:",  "CapPrm:",     "CapEff:", "CapBnd:",
    "CapAmb:", "NoNewPrivs:", "Seccomp:", "THP_enabled:"};

void print_status() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    for (const char* key : kStable) {
      if (line.starts_with(key)) printf("  %s\n", line.c_str());
    }
  }
}

void print_files() {
  std::vector<std::string> lines;
  DIR* directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) {
    const int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd == dirfd(directory)) continue;
    char target[512] = {};
    if (readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1) < 0) continue;
    // Numbers of pipes differ from run to run.
    const std::string text = std::string(target).substr(0, std::string(target).find(":["));
    const bool by_exec = (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
    lines.push_back("  file " + std::to_string(fd) + " " + text + (by_exec ? " cloexec" : "") +
                    " flags " + std::to_string(fcntl(fd, F_GETFL)) + " at " +
                    std::to_string(lseek(fd, 0, SEEK_CUR)));
  }
  closedir(directory);
  std::sort(lines.begin(), lines.end());
  for (const std::string& line : lines) printf("%s\n", line.c_str());
}

void print_signals() {
  for (int i = 1; i <= 64; i++) {
    struct sigaction action = {};
    if (sigaction(i, nullptr, &action) != 0) continue;
    if (action.sa_handler != SIG_DFL) printf("  signal %d flags %x\n", i, action.sa_flags);
  }
  stack_t stack = {};
  sigaltstack(nullptr, &stack);
  printf("  signal stack %d %zu\n", stack.ss_flags, stack.ss_size);
}

void print_limits() {
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    rlimit limit = {};
    getrlimit(static_cast<__rlimit_resource>(i), &limit);
    printf("  limit %d %lu %lu\n", i, limit.rlim_cur, limit.rlim_max);
  }
  char name[32] = {};
  prctl(PR_GET_NAME, name);
  int death_signal = 0;
  prctl(PR_GET_PDEATHSIG, &death_signal);
  printf("  name %s dumpable %d death signal %d slack %d nice %d\n", name, prctl(PR_GET_DUMPABLE),
         death_signal, prctl(PR_GET_TIMERSLACK), getpriority(PRIO_PROCESS, 0));
  for (const __itimer_which timer : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    itimerval value = {};
    getitimer(timer, &value);
    printf("  timer %ld\n", value.it_value.tv_sec);
  }
}

// Our own variables differ between the runs.
void print_environment() {
  for (char** entry = environ; *entry != nullptr; entry++) {
    const std::string text = *entry;
    const bool ours = text.starts_with("SOFTMIG_") || text.starts_with("CUDA_DEVICE_") ||
                      text.starts_with("LD_PRELOAD=");
    if (!ours) printf("  environment %s\n", text.c_str());
  }
  char directory[512];
  printf("  directory %s\n", getcwd(directory, sizeof directory));
}

void print_all(const char* when) {
  printf("%s\n", when);
  print_status();
  print_files();
  print_signals();
  print_limits();
  print_environment();
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char**) {
  using namespace softmig::preload_test;
  umask(0027);
  signal(SIGPIPE, SIG_IGN);
  print_all("at the start");
  if (argc > 1) return 0;
  const Driver driver = start();
  print_all("with a context");
  CUdeviceptr address = 0;
  driver.alloc(&address, kMiB);
  usleep(1'100'000);  // limits are looked at again after a second
  driver.alloc(&address, kMiB);
  print_all("with memory");
  CUcontext context = nullptr;
  driver.free(address);
  driver.current_context(&context);
  driver.destroy_context(context);
  print_all("at the end");
  return 0;
}
