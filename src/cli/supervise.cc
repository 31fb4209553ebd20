#include "cli/supervise.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "cli/failure.h"

namespace softmig::cli {
namespace {

constexpr int kPassedOn[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1,
                             SIGUSR2, SIGALRM, SIGCONT, SIGTSTP, SIGWINCH};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// Only the kernel sends these to a whole foreground group by itself.
bool comes_from_terminal(const siginfo_t& info) { return info.si_code == SI_KERNEL; }

}  // namespace

Supervisor::Supervisor() {
  sigemptyset(&passed_on_);
  for (const int signal : kPassedOn) sigaddset(&passed_on_, signal);
  sigaddset(&passed_on_, SIGCHLD);
  sigset_t blocked = passed_on_;
  sigaddset(&blocked, SIGTTOU);  // handing over the terminal from the background must not stop us
  sigprocmask(SIG_BLOCK, &blocked, &before_);
  // Where SIGCHLD is ignored, children vanish without a status.
  struct sigaction old = {}, standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &standard, &old);
  child_signal_ignored_ = old.sa_handler == SIG_IGN;
  terminal_ = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
}

bool Supervisor::share_group() const {
  if (terminal_ < 0) return false;
  return getpgrp() != getpid() || isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1;
}

void Supervisor::child(const std::vector<char*>& argv, const std::vector<char*>& envp,
                       int report) const {
  if (own_group_) {
    setpgid(0, 0);
    give_terminal();  // by both of us: whoever is first
  }
  if (child_signal_ignored_) std::signal(SIGCHLD, SIG_IGN);
  sigprocmask(SIG_SETMASK, &before_, nullptr);
  execvpe(argv[0], argv.data(), envp.data());
  const int error = errno;
  if (write(report, &error, sizeof error) < 0) _exit(kExitRunFailed);
  _exit(error == ENOENT ? kExitNotFound : kExitCannotRun);
}

pid_t Supervisor::start(const std::vector<std::string>& command,
                        const std::vector<std::string>& environment) {
  own_group_ = !share_group();
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) throw Failure(with_errno("pipe", errno));
  const std::vector<char*> argv = pointers(command), envp = pointers(environment);
  child_ = fork();
  if (child_ < 0) throw Failure(with_errno("a process cannot be started", errno));
  if (child_ == 0) child(argv, envp, report[1]);
  close(report[1]);
  if (own_group_) {
    setpgid(child_, child_);
    give_terminal();
  }
  int error = 0;
  const bool failed = read(report[0], &error, sizeof error) == sizeof error;
  close(report[0]);
  if (!failed) return child_;
  waitpid(child_, nullptr, 0);
  take_terminal();
  const bool missing = error == ENOENT;
  throw Failure(with_errno("cannot run " + command[0], error),
                missing ? "no such program in PATH, or a script whose interpreter is missing" : "",
                missing ? kExitNotFound : kExitCannotRun);
}

// Only from a group that holds the terminal: a job in the background must not seize it.
void Supervisor::give_terminal() const {
  const pid_t group = child_ == 0 ? getpid() : child_;
  const pid_t ours = child_ == 0 ? getppid() : getpgrp();
  if (terminal_ >= 0 && own_group_ && tcgetpgrp(terminal_) == ours) tcsetpgrp(terminal_, group);
}

void Supervisor::take_terminal() const {
  if (terminal_ >= 0 && own_group_ && tcgetpgrp(terminal_) == child_) {
    tcsetpgrp(terminal_, getpgrp());
  }
}

void Supervisor::pass_on(int signal, bool from_terminal) {
  // The terminal has sent it to the program as well.
  if (!own_group_ && from_terminal) return;
  if (signal == SIGCONT) give_terminal();
  kill(own_group_ ? -child_ : child_, signal);
}

// The program was stopped. Our job stops with it, so that the shell takes over; when the shell
// wakes us, the program goes on.
void Supervisor::follow_stop(int signal) {
  if (terminal_ < 0) return;
  take_terminal();
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  std::signal(signal, SIG_DFL);
  kill(getpid(), signal);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);  // stopped here
  sigprocmask(SIG_BLOCK, &one, nullptr);
}

// True if the program has ended.
bool Supervisor::collect(int* status) {
  while (waitpid(child_, status, WNOHANG | WUNTRACED) == child_) {
    if (!WIFSTOPPED(*status)) return true;
    follow_stop(WSTOPSIG(*status));
  }
  return false;
}

int Supervisor::wait() {
  int status = 0;
  while (!collect(&status)) {
    siginfo_t info = {};
    const int signal = sigwaitinfo(&passed_on_, &info);
    if (signal > 0 && signal != SIGCHLD) pass_on(signal, comes_from_terminal(info));
  }
  take_terminal();
  return status;
}

void end_like(int wait_status) {
  if (WIFEXITED(wait_status)) _exit(WEXITSTATUS(wait_status));
  const int signal = WTERMSIG(wait_status);
  // The program's memory has been dumped, if at all; ours is of no interest.
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
  std::signal(signal, SIG_DFL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);
  kill(getpid(), signal);
  _exit(128 + signal);
}

}  // namespace softmig::cli
