#include "cli/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

namespace softmig::cli {
namespace {

constexpr size_t kMostBytes = size_t{16} * 1024 * 1024;
using Clock = std::chrono::steady_clock;

class Pipe {
 public:
  Pipe() {
    if (pipe2(end_, O_CLOEXEC) != 0) end_[0] = end_[1] = -1;
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int read_end() const { return end_[0]; }
  int write_end() const { return end_[1]; }
  void close_writer() { close_end(1); }
  // False at its end.
  bool take(std::string* text) {
    char buffer[65536];
    const ssize_t got = read(end_[0], buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) return true;
    if (got > 0 && text->size() < kMostBytes) text->append(buffer, static_cast<size_t>(got));
    if (got <= 0) close_end(0);
    return got > 0;
  }

 private:
  void close_end(int i) {
    if (end_[i] >= 0) close(end_[i]);
    end_[i] = -1;
  }
  int end_[2];
};

pid_t spawn(const std::vector<std::string>& command, const Pipe& out, const Pipe& err) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.write_end(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write_end(), STDERR_FILENO);
  pid_t pid = -1;
  if (posix_spawnp(&pid, words[0], &actions, nullptr, words.data(), environ) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

// Reads both pipes until they end. False when the time is over.
bool drain(Pipe& out, Pipe& err, ChildResult* result, Clock::time_point end) {
  while (out.read_end() >= 0 || err.read_end() >= 0) {
    pollfd wait[2] = {{out.read_end(), POLLIN, 0}, {err.read_end(), POLLIN, 0}};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) return false;
    if (poll(wait, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) return false;
    if (wait[0].revents != 0) out.take(&result->out);
    if (wait[1].revents != 0) err.take(&result->err);
  }
  return true;
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& command, double timeout_s) {
  ChildResult result;
  Pipe out, err;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(timeout_s));
  const pid_t pid = spawn(command, out, err);
  if (pid < 0) return result;
  result.started = true;
  out.close_writer();
  err.close_writer();
  if (!drain(out, err, &result, end)) {
    result.timed_out = true;
    kill(pid, SIGKILL);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace softmig::cli
