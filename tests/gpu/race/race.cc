// race PROCESSES PIECE [--reps R] [--limit BYTES] [--context BYTES] [--cap BYTES] [--hold MS]
//
// PROCESSES processes make their contexts, wait for each other and then all take pieces at the same
// instant until each is refused. One line of JSON per repetition. With --limit and --context (what
// a context costs the slice) every repetition is checked:
//   never above   granted + contexts x cost <= limit
//   never less    granted >= limit - contexts x cost - one piece per process
//   cleanly       who gets no context gets CUDA_ERROR_OUT_OF_MEMORY where he asks for it
// The processes leave without freeing anything: the next repetition finds what they left.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/gpu.h"

namespace softmig::gpu_test {
namespace {

constexpr int kMostProcesses = 256;
constexpr double kPatienceMs = 120000;

struct Options {
  int processes = 0;
  uint64_t piece = 0;
  int reps = 1;
  uint64_t limit = 0;
  uint64_t context = 0;
  uint64_t cap = 7 * kGiB;
  double hold_ms = 60;
  int device = 0;
};

struct Result {
  CUresult context;  // of making the context
  CUresult last;     // of the last piece
  uint64_t granted;
};

// Shared by everybody of one repetition.
struct Board {
  std::atomic<int> arrived;
  std::atomic<int> finished;
  std::atomic<uint32_t> start;
  std::atomic<uint32_t> leave;
  std::atomic<uint64_t> total;
  Result result[kMostProcesses];
};

void wait_for(std::atomic<uint32_t>* word) {
  while (word->load() == 0) syscall(SYS_futex, word, FUTEX_WAIT, 0, nullptr, nullptr, 0);
}

void open_gate(std::atomic<uint32_t>* word) {
  word->store(1);
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool all_there(const std::atomic<int>& count, int wanted) {
  for (double deadline = now_ms() + kPatienceMs; count.load() < wanted; sleep_ms(1)) {
    if (now_ms() > deadline) return false;
  }
  return true;
}

void take_all(const Options& options, const Driver& driver, Board* board, Result* result) {
  while (board->total.load() < options.cap) {
    CUdeviceptr address = 0;
    result->last = driver.cuMemAlloc_v2(&address, options.piece);
    if (result->last != CUDA_SUCCESS) return;
    result->granted += options.piece;
    board->total += options.piece;
  }
}

void contestant(const Options& options, Board* board, Result* result) {
  Session session;
  std::string step;
  result->context = session.open(Lookup{}, options.device, &step);
  ++board->arrived;
  wait_for(&board->start);
  if (result->context == CUDA_SUCCESS) take_all(options, session.driver, board, result);
  ++board->finished;
  wait_for(&board->leave);
}

// False with a text if the repetition was not what the slice promises.
bool judge(const Options& options, const Board& board, int contexts, std::string* text) {
  for (int i = 0; i < options.processes; ++i) {
    const Result& r = board.result[i];
    if (r.context == CUDA_SUCCESS ? r.last != CUDA_ERROR_OUT_OF_MEMORY
                                  : r.context != CUDA_ERROR_OUT_OF_MEMORY) {
      *text = "process " + std::to_string(i) + ": context " + std::to_string(r.context) +
              ", last piece " + std::to_string(r.last);
      return false;
    }
  }
  if (options.limit == 0 || options.context == 0) return true;
  const uint64_t taken = board.total + contexts * options.context;
  const uint64_t slack = options.piece * static_cast<uint64_t>(options.processes);
  if (taken > options.limit) *text = "above the limit by " + std::to_string(taken - options.limit);
  if (taken + slack < options.limit)
    *text = "below the limit by " + std::to_string(options.limit - taken);
  return text->empty();
}

bool repetition(const Options& options, int number) {
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* board = new (memory) Board();
  const pid_t parent = getpid();
  std::vector<pid_t> pids;
  for (int i = 0; i < options.processes; ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      contestant(options, board, &board->result[i]);
      _exit(0);
    }
    pids.push_back(pid);
  }
  std::string text;
  const bool met = all_there(board->arrived, options.processes);
  const double start = now_ms();
  open_gate(&board->start);
  const bool done = met && all_there(board->finished, options.processes);
  const double took = now_ms() - start;
  sleep_ms(options.hold_ms);
  open_gate(&board->leave);
  bool clean = done;
  for (pid_t pid : pids) {
    if (!done) kill(pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    clean = clean && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  int contexts = 0;
  uint64_t least = ~uint64_t{0}, most = 0;
  for (int i = 0; i < options.processes; ++i) {
    const Result& r = board->result[i];
    if (r.context != CUDA_SUCCESS) continue;
    ++contexts;
    least = std::min(least, r.granted);
    most = std::max(most, r.granted);
  }
  if (!clean) text = done ? "a process died" : "hangs";
  const bool ok = clean && judge(options, *board, contexts, &text);
  Line line("race");
  line.add("repetition", number).add("processes", options.processes).add("contexts", contexts);
  line.add("granted", board->total.load()).add("least", contexts > 0 ? least : 0).add("most", most);
  line.add("ms", took).add("ok", ok);
  if (!text.empty()) line.add("text", text);
  line.print();
  munmap(memory, sizeof(Board));
  return ok;
}

bool parse(int argc, char** argv, Options* options) {
  if (argc < 3) return false;
  options->processes = std::atoi(argv[1]);
  options->piece = parse_size(argv[2]);
  for (int i = 3; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--reps")
      options->reps = std::atoi(argv[i + 1]);
    else if (name == "--limit")
      options->limit = parse_size(argv[i + 1]);
    else if (name == "--context")
      options->context = parse_size(argv[i + 1]);
    else if (name == "--cap")
      options->cap = parse_size(argv[i + 1]);
    else if (name == "--hold")
      options->hold_ms = std::atof(argv[i + 1]);
    else if (name == "--device")
      options->device = std::atoi(argv[i + 1]);
    else
      return false;
  }
  return options->processes > 0 && options->processes <= kMostProcesses && options->piece > 0;
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: race PROCESSES PIECE [--reps R] [--limit BYTES] [--context BYTES] "
                 "[--cap BYTES] [--hold MS] [--device N]\n");
    return 2;
  }
  bool ok = true;
  for (int i = 0; i < options.reps; ++i) ok = repetition(options, i) && ok;
  return ok ? 0 : 1;
}
