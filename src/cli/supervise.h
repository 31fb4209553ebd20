// Starts a program and stands in for it: its signals, its terminal, its exit status.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace softmig::cli {

// As env(1) and timeout(1) have them.
inline constexpr int kExitRunFailed = 125;
inline constexpr int kExitCannotRun = 126;
inline constexpr int kExitNotFound = 127;

class Supervisor {
 public:
  // Blocks the signals that are passed on; do this before any thread is started and before anything
  // is made that a signal must not leave behind.
  Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts `command` (looked up in PATH) with `environment`, which replaces this process's. Throws
  // Failure with status 126 or 127 if it cannot be run.
  //
  // The program gets a process group of its own, and the terminal with it, where that is safe: when
  // this process is alone in a foreground job, or has no terminal at all. In a pipeline or a script
  // it stays in this group, so that ^C, ^Z and `| less` work as they would without us.
  pid_t start(const std::vector<std::string>& command, const std::vector<std::string>& environment);

  // Passes signals on and stops and continues together with the program until it ends. Returns its
  // status as waitpid gives it.
  int wait();

 private:
  bool share_group() const;
  void child(const std::vector<char*>& argv, const std::vector<char*>& envp, int report) const;
  void pass_on(int signal, bool from_terminal);
  void give_terminal() const;
  void take_terminal() const;
  void follow_stop(int signal);
  bool collect(int* status);

  pid_t child_ = -1;
  int terminal_ = -1;  // -1: none
  bool own_group_ = true;
  sigset_t passed_on_ = {}, before_ = {};
  bool child_signal_ignored_ = false;
};

// Ends this process as the program ended: with its exit status, or by its signal, so that a shell
// sees what it would have seen.
[[noreturn]] void end_like(int wait_status);

}  // namespace softmig::cli
