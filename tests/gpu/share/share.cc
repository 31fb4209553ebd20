// share LOAD US SECONDS [--processes N] [--streams S]
//
// N processes launch kernels that keep the GPU busy for US microseconds, without end, and count the
// work that the GPU has done in SECONDS, from a moment half a second after the first launch on. One
// line of JSON: the share of GPU time that all of them had, in percent, and that of each.
//   async   back to back       sync   each waited for       graph   20 kernels in a graph
//   mixed   20 us and US in turns, of one kind by its arguments
//   capture as async, and a second thread captures all the time: no capture may break
// For the simulated GPU: a kernel's work is its argument there.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "common/gpu.h"

namespace softmig::gpu_test {
namespace {

constexpr int kMostProcesses = 16, kMostStreams = 8, kGraphKernels = 20;
constexpr double kWarmUpMs = 500;
constexpr const char* kModule =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry spin_us(.param .u32 us){ ret; }\n";

struct Options {
  std::string load;
  unsigned int us = 0;
  double seconds = 0;
  int processes = 1;
  int streams = 1;
};

struct Board {
  std::atomic<int> ready;
  double work_ms[kMostProcesses];
  int failed[kMostProcesses];
};

class Worker {
 public:
  explicit Worker(const Options& options) : options_(options) {}

  // The first thing that the driver refused.
  CUresult open() {
    std::string step;
    CUresult code = session_.open(Lookup{}, 0, &step);
    CUmodule module = nullptr;
    if (code == CUDA_SUCCESS) code = driver().cuModuleLoadData(&module, kModule);
    if (code == CUDA_SUCCESS) code = driver().cuModuleGetFunction(&spin_, module, "spin_us");
    for (int i = 0; i < options_.streams && code == CUDA_SUCCESS; ++i)
      code = driver().cuStreamCreate(&streams_[i], CU_STREAM_NON_BLOCKING);
    if (code == CUDA_SUCCESS && options_.load == "graph") code = make_graph();
    return code;
  }

  // Launches until now_ms() is `to`; work done from `from` on, in ms.
  CUresult run(double from, double to, double* work_ms) {
    double done = 0;
    // The captures of the other thread forbid waiting, but to who says that he knows.
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUresult code = driver().cuThreadExchangeStreamCaptureMode(&mode);
    while (now_ms() < to && code == CUDA_SUCCESS) {
      // As far ahead of the GPU as a program gets: the streams are waited for now and then.
      double launched = 0;
      for (int turn = 0; launched < 2.0 && code == CUDA_SUCCESS; ++turn)
        code = launch_round(turn, &launched);
      if (code == CUDA_SUCCESS) code = synchronize();
      if (now_ms() >= from) done += launched;
    }
    *work_ms = done;
    return code;
  }

  CUresult capture_once() {
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    CUresult code = driver().cuCtxSetCurrent(session_.context);
    if (code == CUDA_SUCCESS) code = driver().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
    if (code == CUDA_SUCCESS)
      code = driver().cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
    for (int i = 0; i < 100 && code == CUDA_SUCCESS; ++i) {
      code = launch(stream, 20);
      sleep_ms(0.05);
    }
    if (code == CUDA_SUCCESS) code = driver().cuStreamEndCapture(stream, &graph);
    if (code == CUDA_SUCCESS) code = driver().cuGraphDestroy(graph);
    if (code == CUDA_SUCCESS) code = driver().cuStreamDestroy_v2(stream);
    return code;
  }

 private:
  const Driver& driver() const { return session_.driver; }

  CUresult launch(CUstream stream, unsigned int us) {
    void* params[] = {&us};
    return driver().cuLaunchKernel(spin_, 264, 1, 1, 256, 1, 1, 0, stream, params, nullptr);
  }

  CUresult launch_round(int turn, double* launched) {
    const unsigned int us = options_.load == "mixed" && turn % 2 == 0 ? 20 : options_.us;
    for (int i = 0; i < options_.streams; ++i) {
      const CUresult code =
          exec_ != nullptr ? driver().cuGraphLaunch(exec_, streams_[i]) : launch(streams_[i], us);
      if (code != CUDA_SUCCESS) return code;
      if (options_.load == "sync") driver().cuStreamSynchronize(streams_[i]);
    }
    // Each fills the GPU, so that streams take turns.
    *launched += us * options_.streams * (exec_ != nullptr ? kGraphKernels : 1) / 1e3;
    return CUDA_SUCCESS;
  }

  CUresult synchronize() {
    CUresult code = CUDA_SUCCESS;
    for (int i = 0; i < options_.streams && code == CUDA_SUCCESS; ++i)
      code = driver().cuStreamSynchronize(streams_[i]);
    return code;
  }

  CUresult make_graph() {
    CUgraph graph = nullptr;
    CUresult code =
        driver().cuStreamBeginCapture_v2(streams_[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    for (int i = 0; i < kGraphKernels && code == CUDA_SUCCESS; ++i)
      code = launch(streams_[0], options_.us);
    if (code == CUDA_SUCCESS) code = driver().cuStreamEndCapture(streams_[0], &graph);
    if (code == CUDA_SUCCESS) code = driver().cuGraphInstantiateWithFlags(&exec_, graph, 0);
    return code;
  }

  Options options_;
  Session session_;
  CUfunction spin_ = nullptr;
  CUstream streams_[kMostStreams] = {};
  CUgraphExec exec_ = nullptr;
};

CUresult contestant(const Options& options, Board* board, double* work_ms) {
  Worker worker(options);
  CUresult code = worker.open();
  ++board->ready;
  for (double end = now_ms() + 60000; board->ready < options.processes && now_ms() < end;)
    sleep_ms(1);
  if (code != CUDA_SUCCESS) return code;
  const double from = now_ms() + kWarmUpMs, to = from + options.seconds * 1e3;
  std::atomic<CUresult> captured{CUDA_SUCCESS};
  std::thread capturer;
  if (options.load == "capture") {
    capturer = std::thread([&] {
      while (now_ms() < to && captured == CUDA_SUCCESS) captured = worker.capture_once();
    });
  }
  code = worker.run(from, to, work_ms);
  if (capturer.joinable()) capturer.join();
  return code != CUDA_SUCCESS ? code : captured.load();
}

int measure(const Options& options) {
  auto* board = static_cast<Board*>(
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t parent = getpid();
  for (int i = 0; i < options.processes; ++i) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    board->failed[i] = static_cast<int>(contestant(options, board, &board->work_ms[i]));
    _exit(0);
  }
  bool ok = true;
  for (int i = 0, status = 0; i < options.processes; ++i)
    ok = wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && ok;
  Line line("share");
  double all = 0;
  for (int i = 0; i < options.processes; ++i) {
    const double share = board->work_ms[i] / options.seconds / 10;
    all += share;
    line.add("share_" + std::to_string(i), share);
    ok = ok && board->failed[i] == 0;
    if (board->failed[i] != 0) line.add("error", board->failed[i]);
  }
  line.add("share", all).add("ok", ok).print();
  return ok ? 0 : 1;
}

bool parse(int argc, char** argv, Options* options) {
  if (argc < 4) return false;
  options->load = argv[1];
  options->us = static_cast<unsigned int>(std::atoi(argv[2]));
  options->seconds = std::atof(argv[3]);
  for (int i = 4; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--processes")
      options->processes = std::atoi(argv[i + 1]);
    else if (name == "--streams")
      options->streams = std::atoi(argv[i + 1]);
    else
      return false;
  }
  return options->us > 0 && options->seconds > 0 && options->processes > 0 &&
         options->processes <= kMostProcesses && options->streams > 0 &&
         options->streams <= kMostStreams;
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: share LOAD US SECONDS [--processes N] [--streams S]\n");
    return 2;
  }
  return measure(options);
}
