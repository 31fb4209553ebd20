// watch [--device WHICH] [--hz H]             commands on standard input: mark, follow SID, stop
// watch [--device WHICH] [--hz H] -- CMD...   marks, runs CMD in a session of its own, follows it,
// stops. WHICH: NVML's number of the device, or its UUID.
//
// The impartial witness: reads NVML with nothing preloaded, from outside the slice, and remembers
// the highest figures. A process belongs to whom we follow if its session is the one given; it
// stays so when it has died. Answers are lines of JSON:
//   processes   highest sum of the followed processes' memory as the driver lists it
//   listed      highest sum over all processes, less what was listed at the mark
//   device      highest memory in use on the card, less what was in use at the mark
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "common/gpu.h"
#include "common/nvml.h"

namespace softmig::gpu_test {
namespace {

class Card {
 public:
  bool open(const std::string& which) {
    if (!nvml_.open()) return false;
    const bool is_number = which.find_first_not_of("0123456789") == std::string::npos;
    const nvmlReturn_t found = is_number
                                   ? nvml_.nvmlDeviceGetHandleByIndex_v2(
                                         static_cast<unsigned int>(std::stoul(which)), &device_)
                                   : nvml_.nvmlDeviceGetHandleByUUID(which.c_str(), &device_);
    return found == NVML_SUCCESS;
  }
  uint64_t used() const {
    nvmlMemory_t memory{};
    return nvml_.nvmlDeviceGetMemoryInfo(device_, &memory) == NVML_SUCCESS ? memory.used : 0;
  }
  const std::vector<nvmlProcessInfo_t>& processes() {
    for (size_t room = std::max<size_t>(64, list_.size());; room *= 2) {
      list_.resize(room);
      auto count = static_cast<unsigned int>(room);
      const nvmlReturn_t code =
          nvml_.nvmlDeviceGetComputeRunningProcesses_v3(device_, &count, list_.data());
      if (code == NVML_ERROR_INSUFFICIENT_SIZE) continue;
      list_.resize(code == NVML_SUCCESS ? count : 0);
      return list_;
    }
  }

 private:
  Nvml nvml_;
  nvmlDevice_t device_ = nullptr;
  std::vector<nvmlProcessInfo_t> list_;
};

class Watch {
 public:
  explicit Watch(Card* card) : card_(card) {}

  void mark() {
    base_device_ = card_->used();
    base_listed_ = sum_all();
    Line("marked").add("device", base_device_).add("listed", base_listed_).print();
  }

  void follow(pid_t session) {
    session_ = session;
    ours_.clear();
    processes_ = listed_ = device_ = most_ = 0;
    samples_ = 0;
    start_ = now_ms();
    following_ = true;
    Line("following").add("session", session).print();
  }

  void stop() {
    sample();
    following_ = false;
    const double seconds = (now_ms() - start_) / 1e3;
    Line line("watched");
    line.add("processes", processes_).add("listed", listed_).add("device", device_);
    line.add("most_processes", most_).add("samples", samples_);
    line.add("hz", seconds > 0 ? static_cast<double>(samples_) / seconds : 0.0).print();
  }

  void sample() {
    if (!following_) return;
    uint64_t ours = 0, all = 0, count = 0;
    for (const nvmlProcessInfo_t& process : card_->processes()) {
      if (process.usedGpuMemory == static_cast<unsigned long long>(NVML_VALUE_NOT_AVAILABLE))
        continue;
      all += process.usedGpuMemory;
      if (!is_ours(static_cast<pid_t>(process.pid))) continue;
      ours += process.usedGpuMemory;
      ++count;
    }
    const uint64_t used = card_->used();
    processes_ = std::max(processes_, ours);
    most_ = std::max(most_, count);
    listed_ = std::max(listed_, all > base_listed_ ? all - base_listed_ : 0);
    device_ = std::max(device_, used > base_device_ ? used - base_device_ : 0);
    ++samples_;
  }

 private:
  uint64_t sum_all() {
    uint64_t all = 0;
    for (const nvmlProcessInfo_t& process : card_->processes()) all += process.usedGpuMemory;
    return all;
  }
  bool is_ours(pid_t pid) {
    const pid_t session = getsid(pid);
    if (session > 0) ours_[pid] = session == session_;
    const auto known = ours_.find(pid);
    return known != ours_.end() && known->second;
  }

  Card* card_;
  pid_t session_ = 0;
  bool following_ = false;
  double start_ = 0;
  uint64_t base_device_ = 0, base_listed_ = 0;
  uint64_t processes_ = 0, listed_ = 0, device_ = 0, most_ = 0, samples_ = 0;
  std::map<pid_t, bool> ours_;
};

// Commands until the end of standard input, samples in between.
int serve(Watch* watch, double interval_ms) {
  std::string pending;
  for (double next = now_ms();;) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const int wait = std::max(0, static_cast<int>(next - now_ms()));
    if (poll(&input, 1, wait) > 0) {
      char buffer[256];
      const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
      if (n == 0) return 0;
      if (n > 0) pending.append(buffer, static_cast<size_t>(n));
      for (size_t end = 0; (end = pending.find('\n')) != std::string::npos;
           pending.erase(0, end + 1)) {
        const std::string command = pending.substr(0, end);
        if (command == "mark")
          watch->mark();
        else if (command == "stop")
          watch->stop();
        else if (command.rfind("follow ", 0) == 0)
          watch->follow(std::atoi(command.c_str() + 7));
      }
    }
    if (now_ms() < next) continue;
    watch->sample();
    next = std::max(next + interval_ms, now_ms());
  }
}

int run(Watch* watch, double interval_ms, char** command) {
  watch->mark();
  const pid_t pid = fork();
  if (pid == 0) {
    setsid();
    execvp(command[0], command);
    std::fprintf(stderr, "%s: %s\n", command[0], std::strerror(errno));
    _exit(127);
  }
  watch->follow(pid);
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    watch->sample();
    sleep_ms(interval_ms);
  }
  watch->stop();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  if (getenv("LD_PRELOAD") != nullptr) {
    unsetenv("LD_PRELOAD");
    execv("/proc/self/exe", argv);
    return 1;
  }
  std::string device = "0";
  double hz = 200;
  char** command = nullptr;
  for (int i = 1; i < argc && command == nullptr; ++i) {
    const std::string argument = argv[i];
    if (argument == "--device" && i + 1 < argc)
      device = argv[++i];
    else if (argument == "--hz" && i + 1 < argc)
      hz = std::atof(argv[++i]);
    else if (argument == "--" && i + 1 < argc)
      command = argv + i + 1;
    else {
      std::fprintf(stderr, "usage: watch [--device WHICH] [--hz H] [-- CMD...]\n");
      return 2;
    }
  }
  Card card;
  if (!card.open(device)) {
    std::fprintf(stderr, "watch: no NVML, or no device %s\n", device.c_str());
    return 1;
  }
  Watch watch(&card);
  return command != nullptr ? run(&watch, 1e3 / hz, command) : serve(&watch, 1e3 / hz);
}
