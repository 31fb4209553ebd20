#include "share/loads.h"

#include <algorithm>
#include <cmath>

namespace softmig::bench {
namespace {

using Kind = Spec::Kind;

constexpr double kChunkNs = 5e5;   // launches of so much work are one entry of the account
constexpr double kAheadNs = 10e6;  // how far the program runs ahead of the GPU, at least
constexpr double kDeepNs = 300e6;  // the same of a program that never waits
constexpr int64_t kPollNs = 50'000, kHostWorkNs = 60'000, kRestNs = 1'000'000;
constexpr int64_t kLightPeriodNs = 4'000'000;
constexpr double kIdleWorkNs = 1e6;
constexpr int kManyStreams = 4;
// Shared memory that makes it another kernel.
constexpr unsigned int kOtherKernel = 1024;

constexpr struct {
  std::string_view name;
  Kind kind;
} kKinds[] = {{"back", Kind::kBack},      {"deep", Kind::kDeep},        {"streams", Kind::kStreams},
              {"ptsz", Kind::kPerThread}, {"coop", Kind::kCooperative}, {"graph", Kind::kGraph},
              {"wait", Kind::kWait},      {"small", Kind::kSmall},      {"idle", Kind::kIdle},
              {"light", Kind::kLight},    {"bound", Kind::kBound},      {"mixed", Kind::kMixed},
              {"varied", Kind::kVaried}};

void host_work(int64_t ns) {
  for (const int64_t end = now_ns() + ns; now_ns() < end;) {
  }
}

std::string key_of(const Spec& spec) {
  if (spec.kind == Kind::kSmall) return "small:" + spec.length;
  if (spec.kind == Kind::kGraph) return "graph:" + spec.length;
  return spec.length;
}

// Programs have kernels of their own for work of another length; one whose argument says how long
// it takes is the load "varied".
unsigned int kernel_of(std::string_view length) {
  constexpr std::string_view kLengths[] = {"20us", "200us", "2ms", "20ms", "200ms"};
  const auto* at = std::find(std::begin(kLengths), std::end(kLengths), length);
  return kOtherKernel * static_cast<unsigned int>(at - kLengths);
}

How how_of(Kind kind) {
  return kind == Kind::kPerThread     ? How::kPerThread
         : kind == Kind::kCooperative ? How::kCooperative
                                      : How::kPlain;
}

}  // namespace

std::optional<Spec> Spec::parse(std::string_view text) {
  const std::string_view name = text.substr(0, text.find(':'));
  const std::string length(text.substr(std::min(text.size(), name.size() + 1)));
  for (const auto& row : kKinds) {
    if (row.name != name) continue;
    const bool fixed = row.kind == Kind::kMixed || row.kind == Kind::kVaried;
    if (fixed != length.empty()) return std::nullopt;
    return Spec{row.kind, length};
  }
  return std::nullopt;
}

Runner::Runner(Gpu* gpu, const Costs& costs, const Spec& spec, const Period& period)
    : gpu_(gpu),
      costs_(costs),
      spec_(spec),
      period_(period),
      how_(how_of(spec.kind)),
      work_(period.start_ns, period.skip, period.count),
      busy_(period.start_ns, period.skip, period.count) {
  const bool many = spec.kind == Kind::kStreams || spec.kind == Kind::kSmall;
  for (int i = 0; i < (many ? kManyStreams : 1); ++i) {
    CUstream stream = how_ == How::kPerThread
                          ? reinterpret_cast<CUstream>(CU_STREAM_PER_THREAD_VALUE)
                          : gpu->new_stream();
    lanes_.push_back({stream, 0, 0, {}});
  }
  if (spec.kind == Kind::kMixed || spec.kind == Kind::kVaried) {
    const unsigned int other = spec.kind == Kind::kMixed ? kernel_of("2ms") : 0;
    items_ = {{cost("20us"), gpu->full(), nullptr, 1},
              {cost("2ms"), {gpu->full().blocks, other}, nullptr, 1}};
  } else {
    const Cost one = cost(key_of(spec));
    const bool graph = spec.kind == Kind::kGraph;
    Shape shape = spec.kind == Kind::kSmall ? gpu->small() : gpu->full();
    shape.shared = kernel_of(spec.length);
    items_ = {{one, shape, nullptr, graph ? kGraphNodes : 1}};
    if (graph)
      items_[0].graph = gpu->new_graph(lanes_[0].stream, one.iterations, shape, kGraphNodes);
  }
  base_ = event();
  must(gpu->driver().cuEventRecord(base_, lanes_[0].stream), "cuEventRecord");
  gpu->wait(lanes_[0].stream);
  base_ns_ = now_ns();
  launch_ns_.reserve(1 << 20);
}

Runner::~Runner() {
  const gpu_test::Driver& d = gpu_->driver();
  for (const Item& item : items_) {
    if (item.graph != nullptr) d.cuGraphExecDestroy(item.graph);
  }
  for (const Lane& lane : lanes_) {
    if (how_ != How::kPerThread) d.cuStreamDestroy_v2(lane.stream);
  }
  for (CUevent one : events_) d.cuEventDestroy_v2(one);
  d.cuEventDestroy_v2(base_);
}

Cost Runner::cost(const std::string& key) const {
  const auto at = costs_.find(key);
  if (at == costs_.end()) give_up("no cost of " + key + " was given");
  return at->second;
}

void Runner::run() {
  const int64_t end = period_.start_ns + (period_.skip + period_.count) * Series::kBucketNs;
  sleep_until(period_.start_ns);
  for (size_t turn = 0; now_ns() < end; ++turn) {
    for (Lane& lane : lanes_) collect(&lane);
    launch(&lanes_[turn % lanes_.size()]);
  }
  for (Lane& lane : lanes_) {
    gpu_->wait(lane.stream);
    collect(&lane);
  }
  for (const Interval& one : merged(intervals_))
    busy_.add(one, static_cast<double>(one.end_ns - one.begin_ns));
}

std::vector<Runner::Item> Runner::next_chunk() {
  const Item& first = items_[0];
  switch (spec_.kind) {
    case Kind::kWait:
    case Kind::kLight:
    case Kind::kSmall:
      return {first};
    case Kind::kMixed: {
      std::vector<Item> chunk(10, first);
      chunk.push_back(items_[1]);
      return chunk;
    }
    case Kind::kVaried: {
      std::vector<Item> chunk;
      double sum = 0;
      while (sum < kChunkNs) {
        chunk.push_back(items_[(random_() >> 8) & 1]);
        sum += chunk.back().cost.ns;
      }
      return chunk;
    }
    default:
      break;
  }
  const double want = spec_.kind == Kind::kIdle ? kIdleWorkNs : kChunkNs;
  return {static_cast<size_t>(std::max(1.0, std::ceil(want / first.cost.ns - 0.1))), first};
}

void Runner::launch(Lane* lane) {
  const std::vector<Item> items = next_chunk();
  Chunk chunk{nullptr, 0, 0};
  for (const Item& item : items) chunk.gpu_ns += item.cost.ns;
  make_room(lane, chunk.gpu_ns);
  const int64_t begin = now_ns();
  launch_items(lane, items, &chunk);
  chunk.end = event();
  must(gpu_->driver().cuEventRecord(chunk.end, lane->stream), "cuEventRecord");
  lane->flying.push_back(chunk);
  lane->flying_ns += chunk.gpu_ns;
  after(lane, begin);
}

void Runner::launch_items(Lane* lane, const std::vector<Item>& items, Chunk* chunk) {
  for (const Item& item : items) {
    const int64_t before = now_ns();
    if (item.graph != nullptr)
      gpu_->launch_graph(item.graph, lane->stream);
    else
      gpu_->launch(lane->stream, item.cost.iterations, item.shape, how_);
    const int64_t done = now_ns();
    if (chunk->launched_ns == 0) chunk->launched_ns = done;
    launch_ns_.push_back(static_cast<double>(done - before));
    gpu_->expect(item.cost.iterations, item.shape, static_cast<uint64_t>(item.kernels));
    kernels_ += static_cast<uint64_t>(item.kernels);
    if (spec_.kind == Kind::kBound) host_work(kHostWorkNs);
  }
}

// What the program does after a chunk was launched.
void Runner::after(Lane* lane, int64_t begin_ns) {
  if (spec_.kind != Kind::kWait && spec_.kind != Kind::kLight && spec_.kind != Kind::kIdle) return;
  gpu_->wait(lane->stream);
  if (spec_.kind == Kind::kIdle) {
    sleep_until(now_ns() + kRestNs);
    return;
  }
  wait_ns_.push_back(static_cast<double>(now_ns() - begin_ns));
  if (spec_.kind == Kind::kLight) sleep_until(begin_ns + kLightPeriodNs);
}

// Waits until the program is not too far ahead of the GPU: at least two chunks are in flight then.
void Runner::make_room(Lane* lane, double gpu_ns) {
  const double most = std::max(spec_.kind == Kind::kDeep ? kDeepNs : kAheadNs, 2 * gpu_ns);
  while (lane->flying.size() >= 2 && lane->flying_ns + gpu_ns > most) {
    sleep_until(now_ns() + kPollNs);
    collect(lane);
  }
}

void Runner::collect(Lane* lane) {
  while (!lane->flying.empty()) {
    const Chunk chunk = lane->flying.front();
    const CUresult code = gpu_->driver().cuEventQuery(chunk.end);
    if (code == CUDA_ERROR_NOT_READY) return;
    must(code, "cuEventQuery");
    lane->flying.pop_front();
    lane->flying_ns -= chunk.gpu_ns;
    finish(lane, chunk);
  }
}

void Runner::finish(Lane* lane, const Chunk& chunk) {
  const int64_t end = time_of(chunk.end);
  // Work begins when the stream comes to it, and never before it was launched. (An event before the
  // launch would not do: it passes while the launch still waits for its turn.)
  const int64_t begin = std::min(end, std::max(lane->last_end_ns, chunk.launched_ns));
  work_.add({begin, std::max(begin + 1, end)}, chunk.gpu_ns);
  lane->last_end_ns = end;
  events_.push_back(chunk.end);
  if (spec_.kind == Kind::kSmall) intervals_.push_back({begin, end});
}

int64_t Runner::time_of(CUevent event) const {
  float ms = 0;
  must(gpu_->driver().cuEventElapsedTime(&ms, base_, event), "cuEventElapsedTime");
  return base_ns_ + static_cast<int64_t>(static_cast<double>(ms) * 1e6);
}

CUevent Runner::event() {
  if (events_.empty()) return gpu_->new_event();
  CUevent one = events_.back();
  events_.pop_back();
  return one;
}

void Runner::report(gpu_test::Line* line) {
  const Series& series = spec_.kind == Kind::kSmall ? busy_ : work_;
  const std::vector<double> windows = series.windows();
  line->add("share", series.percent());
  if (spec_.kind == Kind::kSmall) line->add("work", work_.percent());
  line->add("windows", static_cast<uint64_t>(windows.size()));
  line->add("window_mean", mean(windows)).add("window_deviation", deviation(windows));
  double longest = 0;
  for (const Item& item : items_) longest = std::max(longest, item.cost.ns);
  line->add("longest_us", longest / 1e3).add("kernels", kernels_);
  line->add("launch_p50_us", percentile(&launch_ns_, 0.5) / 1e3);
  line->add("launch_p99_us", percentile(&launch_ns_, 0.99) / 1e3);
  line->add("launch_max_us", percentile(&launch_ns_, 1) / 1e3);
  if (!wait_ns_.empty()) {
    line->add("wait_mean_us", mean(wait_ns_) / 1e3);
    line->add("wait_deviation_us", deviation(wait_ns_) / 1e3);
    line->add("wait_p50_us", percentile(&wait_ns_, 0.5) / 1e3);
    line->add("wait_p99_us", percentile(&wait_ns_, 0.99) / 1e3);
  }
  line->add("series", series.text());
  switch (gpu_->verdict()) {
    case Gpu::Result::kRight:
      line->add("result", "right");
      break;
    case Gpu::Result::kWrong:
      line->add("result", "wrong");
      break;
    case Gpu::Result::kNotComputed:
      line->add("result", "not computed");
      break;
  }
}

}  // namespace softmig::bench
