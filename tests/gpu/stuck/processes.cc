// Processes of one job that are stopped, killed, forked or ended while they or others stand at the
// gate.
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>

#include "common/peer.h"
#include "stuck/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr int kMost = 4;
constexpr double kStoppedMs = 1200;

// Work that the processes of a check have done, and what they are told.
struct Board {
  std::atomic<uint64_t> work_us[kMost];
  std::atomic<int> ready;
  std::atomic<int> end;
};

Board* new_board() {
  void* at =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (at) Board();
}

// Says what went wrong in a process of a check; its exit status.
int outcome(const Checks::Report& report) {
  if (report.is_good()) return 0;
  Line("child").add("ok", false).add("text", "in a child: " + report.text()).print();
  return 1;
}

// Works without a pause until it is told to end; then its sum must be right.
int hungry(Board* board, int index) {
  constexpr double kUs = 500;
  set_alarm(60, "a hungry process");
  Checks::Report report;
  Gpu gpu;
  if (!gpu.open(report)) return outcome(report);
  CUstream stream = gpu.stream();
  ++board->ready;
  while (board->end == 0 && report.is_good()) {
    for (int i = 0; i < 4; ++i)
      report.result(gpu.launch(stream, kUs), CUDA_SUCCESS, "cuLaunchKernel");
    report.result(cu().cuStreamSynchronize(stream), CUDA_SUCCESS, "cuStreamSynchronize");
    board->work_us[index] += static_cast<uint64_t>(4 * kUs);
  }
  gpu.has_right_sum(report);
  return outcome(report);
}

std::unique_ptr<Child> new_hungry(Board* board, int index) {
  return std::make_unique<Child>([=](Channel&) { return hungry(board, index); });
}

bool wait_until(const std::function<bool()>& condition, double ms) {
  for (const double end = now_ms() + ms; now_ms() < end; sleep_ms(2)) {
    if (condition()) return true;
  }
  return condition();
}

// Percent of the GPU that the process got in that time.
double share_of(const Board& board, int index, double ms) {
  const double begin = now_ms();
  const uint64_t before = board.work_us[index];
  sleep_ms(ms);
  return static_cast<double>(board.work_us[index] - before) / (now_ms() - begin) / 10;
}

void end_all(Checks::Report& report, Board* board,
             const std::vector<std::unique_ptr<Child>>& children) {
  board->end = 1;
  for (const auto& child : children)
    report.equal(static_cast<uint64_t>(child->wait(10000)), 0, "status of a process that ended");
}

// One of two is stopped in some way: the other goes on, with all of the share, and then both do.
// `stop` and `go` say whether they could.
void stop_one(Checks::Report& report, const std::function<bool(pid_t)>& stop,
              const std::function<bool(pid_t)>& go) {
  Board* board = new_board();
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 2; ++i) children.push_back(new_hungry(board, i));
  step("waiting for two processes");
  if (!report.expect(wait_until([&] { return board->ready == 2; }, 20000), "they do not start"))
    return;
  // A process of the simulated GPU that is stopped in a call may hold up all others there, so that
  // a stop counts where the other goes on; on the card the first one does.
  double alone = 0;
  for (int tries = on_simulated_gpu() ? 4 : 1; tries > 0 && alone < 5; --tries) {
    sleep_ms(200);
    step("stopping one of two");
    // Never -1, which would be all processes.
    if (!report.expect(children[0]->pid() > 0, "a process has ended")) return;
    if (!stop(children[0]->pid())) return report.skip("the process cannot be stopped that way");
    sleep_ms(300);  // what the stopped one had launched is done
    const uint64_t before = board->work_us[0];
    step("one of two is stopped");
    alone = share_of(*board, 1, kStoppedMs);
    report.equal(board->work_us[0], before, "work of the stopped process");
    if (!report.expect(go(children[0]->pid()), "the process cannot be continued")) return;
  }
  report.note("share_while_other_is_stopped", alone);
  report.expect(alone > 0.7 * limit_percent(),
                "the other one has not gone on with all of the share");
  report.expect(alone < limit_percent() + 4, "the other one has more than the limit");
  step("both go on");
  const uint64_t before[2] = {board->work_us[0], board->work_us[1]};
  report.expect(wait_until(
                    [&] {
                      return board->work_us[0] > before[0] + 4000 &&
                             board->work_us[1] > before[1] + 4000;
                    },
                    4000),
                "not both of them go on");
  end_all(report, board, children);
}

void stop_continue(Checks::Report& report) {
  stop_one(
      report, [](pid_t pid) { return kill(pid, SIGSTOP) == 0; },
      [](pid_t pid) { return kill(pid, SIGCONT) == 0; });
}

// As a debugger stops a program.
void debugger_stop(Checks::Report& report) {
  stop_one(
      report,
      [](pid_t pid) {
        int status = 0;
        return ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 &&
               ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) == 0 &&
               waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status);
      },
      [](pid_t pid) { return ptrace(PTRACE_DETACH, pid, nullptr, nullptr) == 0; });
}

// TEST_ROUNDS processes are killed one after the other, half of them at the gate, half at any
// moment of their life; one that lives beside them has its share all the while, and all of it in
// the end.
void kill_at_gate(Checks::Report& report) {
  const char* text = std::getenv("TEST_ROUNDS");
  const int rounds = text != nullptr ? std::atoi(text) : 50;
  Board* board = new_board();
  std::vector<std::unique_ptr<Child>> survivors;
  survivors.push_back(new_hungry(board, 0));
  step("waiting for the survivor");
  if (!report.expect(wait_until([&] { return board->ready == 1; }, 20000), "it does not start"))
    return;
  std::mt19937 random(1);
  for (int i = 0; i < rounds && report.is_good(); ++i) {
    step("killing a process");
    const int before = board->ready;
    auto victim = new_hungry(board, 1);
    if (i % 2 == 0) {
      report.expect(wait_until([&] { return board->ready > before; }, 20000),
                    "a process after a killed one does not start");
      sleep_ms(random() % 30);
    } else {
      sleep_ms(random() % 60);
    }
    victim->kill();
  }
  report.note("killed", rounds);
  report.note("work_of_killed_ms", static_cast<double>(board->work_us[1]) / 1e3);
  step("measuring the survivor");
  sleep_ms(500);
  const double share = share_of(*board, 0, 1500);
  expect_share(report, share, 4);
  end_all(report, board, survivors);
}

// --- one process with threads

// A thread that launches without a pause, and so stands at the gate nearly all the time.
class AtGate {
 public:
  explicit AtGate(Gpu& gpu) : thread_([this, &gpu] { run(gpu); }) {}
  ~AtGate() { end(); }
  AtGate(const AtGate&) = delete;
  AtGate& operator=(const AtGate&) = delete;
  uint64_t launched() const { return launched_; }
  void end() {
    end_ = true;
    if (thread_.joinable()) thread_.join();
  }
  void leave() { thread_.detach(); }

 private:
  void run(Gpu& gpu) {
    Checks::Report ignored;
    gpu.attach(ignored);
    CUstream stream = gpu.stream();
    while (!end_) {
      if (gpu.launch(stream, 500) != CUDA_SUCCESS) break;
      ++launched_;
    }
  }

  std::atomic<bool> end_{false};
  std::atomic<uint64_t> launched_{0};
  std::thread thread_;
};

void wait_for_gate() { sleep_ms(300); }

// The children of a program whose thread stands at the gate can exec and exit in every way, and the
// program itself does not notice.
void fork_at_gate(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  AtGate thread(gpu);
  wait_for_gate();
  for (int i = 0; i < 30 && report.is_good(); ++i) {
    step("forking");
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(5);
      if (i % 3 == 0) execl("/bin/true", "true", nullptr);
      if (i % 3 == 1) std::exit(0);
      _exit(0);
    }
    step("waiting for a forked child");
    int status = 0;
    waitpid(pid, &status, 0);
    report.expect(WIFEXITED(status) && WEXITSTATUS(status) == 0,
                  i % 3 == 0   ? "a child does not exec"
                  : i % 3 == 1 ? "a child does not exit"
                               : "a child does not _exit");
    sleep_ms(5);
  }
  const uint64_t before = thread.launched();
  step("going on after forks");
  report.expect(wait_until([&] { return thread.launched() > before + 20; }, 5000),
                "the thread does not go on");
  thread.end();
  gpu.has_right_sum(report);
}

// Runs a program whose thread stands at the gate, and that ends in some way: it must end soon.
void end_at_gate(Checks::Report& report, void (*end)(Gpu&)) {
  for (int i = 0; i < 5 && report.is_good(); ++i) {
    Child child([&](Channel&) {
      set_alarm(30, "a process that ends");
      Checks::Report inner;
      static Gpu gpu;
      if (!gpu.open(inner)) return outcome(inner);
      static AtGate* const thread = new AtGate(gpu);
      thread->leave();
      wait_for_gate();
      alarm(5);
      end(gpu);
      return 0;
    });
    step("waiting for a program that ends");
    report.equal(static_cast<uint64_t>(child.wait(20000)), 0,
                 "status of a program that ended while its thread stood at the gate");
  }
}

void exit_at_gate(Checks::Report& report) {
  end_at_gate(report, [](Gpu&) { std::exit(0); });
}

void exec_at_gate(Checks::Report& report) {
  end_at_gate(report, [](Gpu&) { execl("/bin/true", "true", nullptr); });
}

// Threads that launch into their own stream and are gone before the GPU is.
void threads_come_and_go(Checks::Report& report) {
  constexpr int kThreads = 200;
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream shared = gpu.stream();
  Checks::Report of_threads;
  step("threads_come_and_go: threads");
  for (int i = 0; i < kThreads; ++i) {
    std::thread([&] {
      gpu.attach(of_threads);
      const auto own = reinterpret_cast<CUstream>(CU_STREAM_PER_THREAD_VALUE);
      for (CUstream stream : {own, shared})
        of_threads.result(gpu.launch(stream, 500), CUDA_SUCCESS, "cuLaunchKernel");
    }).join();
  }
  report.expect(of_threads.is_good(), of_threads.text());
  step("threads_come_and_go: waiting");
  gpu.has_right_sum(report);
  expect_share(report, hungry_share(report, 1, gpu, shared));
  gpu.has_right_sum(report);
}

}  // namespace

void add_process_checks(Checks* checks) {
  add_timed(checks, "stop_continue", 60, stop_continue);
  add_timed(checks, "debugger_stop", 60, debugger_stop);
  add_timed(checks, "kill_at_gate", 240, kill_at_gate);
  add_timed(checks, "fork_at_gate", 60, fork_at_gate);
  add_timed(checks, "exit_at_gate", 60, exit_at_gate);
  add_timed(checks, "exec_at_gate", 60, exec_at_gate);
  add_timed(checks, "threads_come_and_go", 60, threads_come_and_go);
}

}  // namespace softmig::gpu_test
