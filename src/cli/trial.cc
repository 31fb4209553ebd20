#include "cli/trial.h"

#include <fmt/core.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "cli/output.h"
#include "cli/preload_file.h"

namespace softmig::cli {
namespace {

constexpr int kCannotMount = 200, kCannotStart = 201;
constexpr size_t kMostText = 300;
constexpr std::chrono::seconds kPatience{20};

bool bind_preload_file(const std::string& file) {
  return unshare(CLONE_NEWNS) == 0 &&
         mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount(file.c_str(), kPreloadFile, nullptr, MS_BIND, nullptr) == 0;
}

[[noreturn]] void run_child(const Trial& trial, int output) {
  std::vector<char*> arguments;
  for (const std::string& word : trial.command)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::string variable = "LD_PRELOAD=" + trial.preload;
  char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  char* environment[] = {path, trial.preload.empty() ? nullptr : variable.data(), nullptr};
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  if (!trial.preload_file.empty() && !bind_preload_file(trial.preload_file)) _exit(kCannotMount);
  if (trial.uid != 0 &&
      (setgroups(0, nullptr) != 0 || setresgid(trial.uid, trial.uid, trial.uid) != 0 ||
       setresuid(trial.uid, trial.uid, trial.uid) != 0)) {
    _exit(kCannotStart);
  }
  execve(arguments[0], arguments.data(), environment);
  _exit(kCannotStart);
}

// What the program prints, until it ends or patience does.
std::string read_until_end(int fd, pid_t pid) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  std::string text;
  std::array<char, 512> bytes;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd ready = {fd, POLLIN, 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) == 0) {
      kill(pid, SIGKILL);
      return text;
    }
    const ssize_t got = read(fd, bytes.data(), bytes.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(bytes.data(), static_cast<size_t>(got));
  }
}

}  // namespace

std::string try_out(const Trial& trial) {
  int ends[2] = {-1, -1};
  if (pipe(ends) != 0) return std::strerror(errno);
  const pid_t pid = fork();
  if (pid == 0) run_child(trial, ends[1]);
  close(ends[1]);
  const std::string text = pid > 0 ? read_until_end(ends[0], pid) : "";
  close(ends[0]);
  if (pid < 0) return std::strerror(errno);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotMount) {
    return "skipped: private mounts are not allowed here";
  }
  if (WIFSIGNALED(status)) return fmt::format("it ended by signal {}", WTERMSIG(status));
  if (WEXITSTATUS(status) != trial.status) {
    return fmt::format("it ended with status {} where {} is right{}{}", WEXITSTATUS(status),
                       trial.status, text.empty() ? "" : ": ", printable(text));
  }
  const bool good = trial.prints ? text.find("ERROR: ld.so") == std::string::npos : text.empty();
  return good ? "" : "it printed: " + printable(text.substr(0, kMostText));
}

}  // namespace softmig::cli
