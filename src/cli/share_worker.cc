#include "cli/share_worker.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <sstream>

#include "cli/failure.h"
#include "cli/install.h"

namespace softmig::cli {
namespace {

[[noreturn]] void become(std::vector<std::string> command, int input, int output) {
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

ShareWorker::ShareWorker(const std::vector<std::string>& before) {
  std::vector<std::string> command = before;
  command.push_back(own_path());
  command.emplace_back("share-worker");
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) {
    throw Failure(with_errno("pipe", errno));
  }
  std::signal(SIGPIPE, SIG_IGN);  // a worker that ended is an answer, not our end
  child_ = fork();
  if (child_ < 0) throw Failure(with_errno("a process cannot be started", errno));
  if (child_ == 0) become(command, to[0], from[1]);
  close(to[0]);
  close(from[1]);
  requests_ = to[1];
  answers_ = from[0];
}

ShareWorker::~ShareWorker() {
  close(requests_);
  close(answers_);
  waitpid(child_, nullptr, 0);
}

void ShareWorker::open(const std::string& uuid) { ask("open " + uuid); }

WorkUnit ShareWorker::calibrate() {
  std::istringstream words(ask("calibrate"));
  WorkUnit unit;
  if (!(words >> unit.steps >> unit.ns) || unit.ns <= 0) throw Failure("the GPU did no work");
  return unit;
}

void ShareWorker::begin(const WorkUnit& unit, int64_t start_ns, double seconds) {
  const std::string request =
      fmt::format("run {} {} {} {}\n", unit.steps, unit.ns, start_ns, seconds);
  if (write(requests_, request.data(), request.size()) < 0) throw Failure("a program ended");
  over_ = false;
}

// Up to a newline; waits for it.
std::string ShareWorker::line() {
  size_t end;
  while ((end = buffer_.find('\n')) == std::string::npos) {
    char bytes[4096];
    const ssize_t got = read(answers_, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Failure("a program that was to share the GPU ended");
    buffer_.append(bytes, static_cast<size_t>(got));
  }
  std::string text = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return text;
}

std::string ShareWorker::ask(const std::string& request) {
  const std::string text = request + "\n";
  if (write(requests_, text.data(), text.size()) < 0) throw Failure("a program ended");
  const std::string answer = line();
  if (!answer.starts_with("ok")) throw Failure("a program that was to share the GPU: " + answer);
  return answer.substr(2);
}

bool ShareWorker::take() {
  while (!over_) {
    const std::string text = line();
    std::istringstream words(text);
    std::string kind;
    WorkReport report;
    if (!(words >> kind >> report.at_ns >> report.done_ns)) throw Failure("a program: " + text);
    reports_.push_back(report);
    over_ = kind == "ok";
    if (buffer_.find('\n') == std::string::npos) break;
  }
  return !over_;
}

}  // namespace softmig::cli
