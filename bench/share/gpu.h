// The driver, one context and the work kernel, for the programs that measure shares.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/gpu.h"

namespace softmig::bench {

int64_t now_ns();  // CLOCK_MONOTONIC
void sleep_until(int64_t ns);

// Blocks and shared memory of a launch; `shared` only makes it a kernel of another kind for whoever
// learns costs by shape.
struct Shape {
  unsigned int blocks = 0;
  unsigned int shared = 0;
};

enum class How { kPlain, kPerThread, kCooperative };

// Ends the program with a line of JSON: a benchmark has nothing to say after a driver error.
[[noreturn]] void give_up(const std::string& text);
void must(CUresult code, const char* what);

// Whether libsoftmig.so is in this process: ld.so goes on without a library that it cannot load.
bool has_library();

// The work kernel in the current context.
CUfunction load_work(const gpu_test::Driver& driver);

class Gpu {
 public:
  // A context on the device with this ordinal and the kernel in it.
  void open(int device);
  int device() const { return session_.device; }

  const gpu_test::Driver& driver() const { return session_.driver; }
  std::string name() const;  // "NVIDIA H100 80GB HBM3, CUDA 13.0"
  // Fills the device: two blocks on each multiprocessor.
  Shape full() const { return {2 * multiprocessors_, 0}; }
  // Leaves room for seven more of its kind.
  Shape small() const { return {multiprocessors_ / 4 + (multiprocessors_ < 4), 0}; }

  CUstream new_stream();
  CUevent new_event();
  void launch(CUstream stream, uint64_t iterations, Shape shape, How how);
  // A graph of `nodes` kernels one after the other.
  CUgraphExec new_graph(CUstream stream, uint64_t iterations, Shape shape, int nodes);
  void launch_graph(CUgraphExec graph, CUstream stream);
  void wait(CUstream stream);

  // Notes that `count` launches were made, for verdict().
  void expect(uint64_t iterations, Shape shape, uint64_t count);
  enum class Result { kRight, kWrong, kNotComputed };
  // Waits for everything, compares the sum with what the launches must have left, starts anew. A
  // simulated GPU computes nothing.
  Result verdict();

 private:
  gpu_test::Session session_;
  decltype(&::cuLaunchKernel_ptsz) launch_per_thread_ = nullptr;
  CUfunction work_ = nullptr;
  CUdeviceptr sink_ = 0;
  unsigned int multiprocessors_ = 1;
  std::map<std::pair<uint64_t, unsigned int>, uint64_t> results_;
  uint64_t expected_ = 0;
};

}  // namespace softmig::bench
