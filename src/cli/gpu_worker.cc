#include "cli/gpu_worker.h"

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

bool read_line(std::FILE* file, std::string* line) {
  line->clear();
  int c;
  while ((c = std::fgetc(file)) != EOF && c != '\n') *line += static_cast<char>(c);
  return c == '\n';
}

[[noreturn]] void become_worker(const std::string& binary, int input, int output) {
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  execl(binary.c_str(), "softmig", "gpu-worker", static_cast<char*>(nullptr));
  _exit(127);
}

}  // namespace

std::unique_ptr<GpuWorker> GpuWorker::start() {
  const std::string binary = own_path();
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) {
    throw Failure(with_errno("pipe", errno));
  }
  const pid_t child = fork();
  if (child < 0) throw Failure(with_errno("a process cannot be started", errno));
  if (child == 0) become_worker(binary, to[0], from[1]);
  close(to[0]);
  close(from[1]);
  auto worker = std::make_unique<GpuWorker>(to[1], from[0]);
  worker->child_ = child;
  if (!worker->greet()) throw Failure("the process that was to use the GPU did not start");
  return worker;
}

GpuWorker::GpuWorker(int requests, int answers)
    : requests_(fdopen(requests, "w")), answers_(fdopen(answers, "r")) {
  std::signal(SIGPIPE, SIG_IGN);  // a killed worker is an answer, not our end
}

GpuWorker::~GpuWorker() {
  std::fclose(requests_);
  std::fclose(answers_);
  if (child_ > 0) waitpid(child_, nullptr, 0);
}

bool GpuWorker::greet() {
  std::string line;
  if (!read_line(answers_, &line)) return false;
  std::istringstream words(line);
  std::string hello;
  return static_cast<bool>(words >> hello >> pid_) && hello == "hello";
}

GpuAnswer GpuWorker::ask(const std::string& request) {
  GpuAnswer answer;
  std::string line;
  fmt::print(requests_, "{}\n", request);
  if (std::fflush(requests_) != 0 || !read_line(answers_, &line)) {
    answer.code = -1;
    answer.text = "the process is gone";
    return answer;
  }
  std::istringstream words(line);
  std::string kind;
  words >> kind;
  answer.ok = kind == "ok";
  if (!answer.ok) {
    words >> answer.code;
    std::getline(words >> std::ws, answer.text);
  }
  for (uint64_t number; answer.ok && words >> number;) answer.numbers.push_back(number);
  return answer;
}

}  // namespace softmig::cli
