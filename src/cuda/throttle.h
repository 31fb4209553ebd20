// Holds launches to the job's share of GPU time (policy/share.h): every launch is charged what its
// kind is known to cost, and waits while the job is behind.
#pragma once

#include "cuda/timing.h"
#include "policy/cost.h"

namespace softmig::cuda {

using hook::throttles;

// What is launched, as far as its cost depends on it.
struct Work {
  uint64_t key = 0;       // of this kernel in this shape, or of this graph
  uint64_t function = 0;  // of the kernel in any shape, 0: a graph
  uint64_t blocks = 0;
  CUfunction handle = nullptr;  // of a kernel
};
struct Shape {
  unsigned int grid[3];
  unsigned int block[3];
  unsigned int shared;
};
Work kernel_work(CUfunction function, const Shape& shape);
Work graph_work(CUgraphExec exec);
// The handle is another graph's from now on.
void forget_graph(CUgraphExec exec);

// One launch. The constructor waits until it may be made and begins to time it if that is due.
class Launch {
 public:
  Launch() = default;
  Launch(CUstream stream, bool per_thread, const Work& work) { begin(stream, per_thread, work); }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void begin(CUstream stream, bool per_thread, const Work& work);
  // What the driver said. A launch that failed costs nothing.
  CUresult end(CUresult result);

 private:
  enum class Timing : uint8_t { kNone, kSingle, kRun };

  bool waits_for_peers(const Work& work);
  bool is_coupled(uint64_t now) const;
  policy::Admission ask(const policy::ShareRule& rule, uint64_t now, bool has_waited);
  void begin_timing(const Work& work, uint64_t now, bool single, bool in_runs);
  void fail();
  bool has_ended() const { return line_->context->salt != owner_; }
  void leave_run();
  [[gnu::noinline, gnu::cold]] uint64_t wait();
  bool is_held(uint64_t now, bool at_ease) const;
  bool may_pass(bool hold, uint64_t since, uint64_t now);
  void forget_hold();

  Line* line_ = nullptr;  // null: not throttled
  uint64_t owner_ = 0;    // salt of the context: another one by now if that has ended meanwhile
  policy::Cost* row_ = nullptr;
  uint64_t cost_ = 0;    // charged
  uint64_t alone_ = 0;   // without regard to other streams
  uint32_t number_ = 0;  // of the line's launches
  Timing timing_ = Timing::kNone;
  bool unknown_ = false, guessed_ = false;
  bool collective_ = false;  // waits for kernels on other devices
  Bracket bracket_;
};

template <typename Call>
CUresult throttle(CUstream stream, bool per_thread, const Work& work, Call call) {
  Launch launch(stream, per_thread, work);
  return launch.end(call());
}

// Captures that are open in this process: while there are any, launches ask the driver whether
// theirs is one.
void count_capture(int change);
bool is_capture_open();

}  // namespace softmig::cuda
