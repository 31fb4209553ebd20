// The loads: what a program asks of the GPU, and the account of what it got.
#pragma once

#include <deque>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "share/costs.h"
#include "share/gpu.h"
#include "share/series.h"

namespace softmig::bench {

// KIND:LENGTH, LENGTH that of one kernel:
//   back      back to back on one stream            streams  the same on four streams
//   deep      back to back, far ahead of the GPU
//   ptsz      on the per-thread default stream      coop     cooperative launches
//   graph     graphs of 20 kernels, back to back    wait     launch, wait, launch, wait ...
//   small     small grids on four streams, which overlap on the GPU
//   idle      1 ms of work, then 1 ms of rest       light    one kernel every 4 ms, waited for
//   bound     60 us of host work after each launch
// and of fixed lengths
//   mixed     ten kernels of 20 us, one of 2 ms that is another kernel
//   varied    one kernel that takes 20 us or 2 ms, as its argument says, at random
struct Spec {
  enum class Kind {
    kBack,
    kDeep,
    kStreams,
    kPerThread,
    kCooperative,
    kGraph,
    kWait,
    kSmall,
    kIdle,
    kLight,
    kBound,
    kMixed,
    kVaried
  };
  Kind kind;
  std::string length;

  static std::optional<Spec> parse(std::string_view text);
};

// When a run takes place: launches begin at `start_ns`; the first `skip` buckets
// (Series::kBucketNs) count for no figure, the `count` after them do.
struct Period {
  int64_t start_ns;
  int skip, count;
};

class Runner {
 public:
  // Makes streams and graphs and launches nothing.
  Runner(Gpu* gpu, const Costs& costs, const Spec& spec, const Period& period);
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  ~Runner();

  void run();
  void report(gpu_test::Line* line);

 private:
  struct Item {
    Cost cost;
    Shape shape;
    CUgraphExec graph;
    int kernels;
  };
  struct Chunk {
    CUevent end;
    int64_t launched_ns;
    double gpu_ns;
  };
  // A stream and what is in flight on it.
  struct Lane {
    CUstream stream;
    int64_t last_end_ns;
    double flying_ns;
    std::deque<Chunk> flying;
  };

  Cost cost(const std::string& key) const;
  std::vector<Item> next_chunk();
  void launch(Lane* lane);
  void launch_items(Lane* lane, const std::vector<Item>& items, Chunk* chunk);
  void after(Lane* lane, int64_t begin_ns);
  void make_room(Lane* lane, double gpu_ns);
  void collect(Lane* lane);
  void finish(Lane* lane, const Chunk& chunk);
  int64_t time_of(CUevent event) const;
  CUevent event();

  Gpu* gpu_;
  const Costs& costs_;
  Spec spec_;
  Period period_;
  How how_;
  std::vector<Item> items_;
  std::vector<Lane> lanes_;
  std::vector<CUevent> events_;
  CUevent base_ = nullptr;
  int64_t base_ns_ = 0;
  Series work_, busy_;
  std::vector<Interval> intervals_;
  std::vector<double> launch_ns_, wait_ns_;
  std::minstd_rand random_{1};
  uint64_t kernels_ = 0;
};

}  // namespace softmig::bench
