// A program that always has work for a GPU and says how much of it was done: `softmig
// share-worker`. Its kernel does a fixed number of steps, so what is done is time on the GPU: one
// that counted clock ticks would go on "working" while another program has the GPU.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace softmig::cli {

// How the worker measures work: a kernel of so many steps takes so long when it is alone.
struct WorkUnit {
  uint64_t steps = 0;
  double ns = 0;
};

struct WorkReport {
  int64_t at_ns = 0;   // CLOCK_MONOTONIC
  double done_ns = 0;  // GPU time of the work done by then, by the cost of a unit
};

// The other end of a share-worker's pipes.
class ShareWorker {
 public:
  // Starts `softmig share-worker`, with `before` ("softmig", "run", ...) as the command that runs
  // it, or by itself. Throws Failure.
  explicit ShareWorker(const std::vector<std::string>& before);
  // Ends it.
  ~ShareWorker();
  ShareWorker(const ShareWorker&) = delete;
  ShareWorker& operator=(const ShareWorker&) = delete;

  // All throw Failure if the worker cannot.
  void open(const std::string& uuid);
  // Alone on the GPU.
  WorkUnit calibrate();
  // From `start_ns` (CLOCK_MONOTONIC) for `seconds`; does not wait.
  void begin(const WorkUnit& unit, int64_t start_ns, double seconds);

  int fd() const { return answers_; }
  // Takes what has arrived since; false when the work is over.
  bool take();
  const std::vector<WorkReport>& reports() const { return reports_; }

 private:
  std::string line();
  std::string ask(const std::string& request);

  pid_t child_ = -1;
  int requests_ = -1, answers_ = -1;
  std::string buffer_;
  std::vector<WorkReport> reports_;
  bool over_ = true;
};

}  // namespace softmig::cli
