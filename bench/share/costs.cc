#include "share/costs.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace softmig::bench {
namespace {

constexpr const char* kCostKeys[] = {"20us",  "200us",       "2ms",        "20ms",
                                     "200ms", "small:200us", "graph:20us", "graph:200us"};
constexpr double kWarmUpNs = 3e8, kSampleNs = 2e8;

struct Key {
  bool small, graph;
  double length_ns;  // of one kernel
};

Key parse_key(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = colon == text.npos ? "" : text.substr(0, colon);
  return {kind == "small", kind == "graph",
          parse_length(colon == text.npos ? text : text.substr(colon + 1))};
}

// A unit of work, launched again and again on one stream.
class Unit {
 public:
  Unit(Gpu* gpu, const Key& key, uint64_t iterations)
      : gpu_(gpu),
        stream_(gpu->new_stream()),
        shape_(key.small ? gpu->small() : gpu->full()),
        iterations_(iterations),
        graph_(key.graph ? gpu->new_graph(stream_, iterations, shape_, kGraphNodes) : nullptr) {}
  Unit(const Unit&) = delete;
  Unit& operator=(const Unit&) = delete;
  ~Unit() {
    if (graph_ != nullptr) gpu_->driver().cuGraphExecDestroy(graph_);
    gpu_->driver().cuStreamDestroy_v2(stream_);
  }

  // GPU time of one unit when `count` run back to back. Queued in portions, so that the driver's
  // queue never stops the host between two that are timed.
  double time(int count) {
    CUevent begin = gpu_->new_event(), end = gpu_->new_event();
    const gpu_test::Driver& d = gpu_->driver();
    double total_ms = 0;
    for (int left = count; left > 0; left -= kPortion) {
      const int portion = std::min(left, kPortion);
      launch(1);  // keeps the GPU busy while the portion is queued
      must(d.cuEventRecord(begin, stream_), "cuEventRecord");
      launch(portion);
      must(d.cuEventRecord(end, stream_), "cuEventRecord");
      gpu_->wait(stream_);
      float ms = 0;
      must(d.cuEventElapsedTime(&ms, begin, end), "cuEventElapsedTime");
      total_ms += static_cast<double>(ms);
    }
    d.cuEventDestroy_v2(begin);
    d.cuEventDestroy_v2(end);
    return total_ms * 1e6 / count;
  }

 private:
  static constexpr int kPortion = 200;

  void launch(int count) {
    for (int i = 0; i < count; ++i) {
      if (graph_ != nullptr)
        gpu_->launch_graph(graph_, stream_);
      else
        gpu_->launch(stream_, iterations_, shape_, How::kPlain);
    }
    const int kernels = graph_ != nullptr ? kGraphNodes : 1;
    gpu_->expect(iterations_, shape_,
                 static_cast<uint64_t>(count) * static_cast<uint64_t>(kernels));
  }

  Gpu* gpu_;
  CUstream stream_;
  Shape shape_;
  uint64_t iterations_;
  CUgraphExec graph_;
};

double time_of(Gpu* gpu, const Key& key, uint64_t iterations, double for_ns) {
  Unit unit(gpu, key, iterations);
  const double unit_ns = key.length_ns * (key.graph ? kGraphNodes : 1);
  return unit.time(std::clamp(static_cast<int>(for_ns / unit_ns), 2, 2000));
}

// The iterations with which a kernel of this shape takes about as long as the key says.
uint64_t iterations_for(Gpu* gpu, const Key& key) {
  const Key one{key.small, false, 1e6};
  constexpr uint64_t kShort = 20'000, kLong = 200'000;
  const double a = time_of(gpu, one, kShort, 1e7), b = time_of(gpu, one, kLong, 3e7);
  const double each = (b - a) / static_cast<double>(kLong - kShort);
  if (each <= 0) give_up("the kernel takes the same time whatever it does");
  const double fixed = a - each * static_cast<double>(kShort);
  return static_cast<uint64_t>(std::max(1.0, (key.length_ns - fixed) / each));
}

}  // namespace

double parse_length(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return 0;
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  return unit == "us" ? value * 1e3 : unit == "ms" ? value * 1e6 : unit == "s" ? value * 1e9 : 0;
}

bool parse_costs(std::string_view text, Costs* costs) {
  while (!text.empty()) {
    const std::string_view row = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), row.size() + 1));
    const size_t equals = row.find('='), colon = row.rfind(':');
    if (equals == row.npos || colon == row.npos || colon < equals) return false;
    Cost cost;
    std::from_chars(row.data() + equals + 1, row.data() + colon, cost.iterations);
    std::from_chars(row.data() + colon + 1, row.data() + row.size(), cost.ns);
    if (cost.iterations == 0 || cost.ns <= 0) return false;
    costs->insert_or_assign(std::string(row.substr(0, equals)), cost);
  }
  return !costs->empty();
}

std::string costs_text(const Costs& costs) {
  std::string text;
  for (const auto& [key, cost] : costs) {
    char figures[64];
    std::snprintf(figures, sizeof figures, "=%llu:%.1f",
                  static_cast<unsigned long long>(cost.iterations), cost.ns);
    text += (text.empty() ? "" : ",") + key + figures;
  }
  return text;
}

Costs measure_costs(Gpu* gpu) {
  const Key warm{false, false, 1e6};
  time_of(gpu, warm, 200'000, kWarmUpNs);  // until the clocks are up
  const uint64_t per_ms = iterations_for(gpu, warm);
  const uint64_t small_per_ms = iterations_for(gpu, {true, false, 1e6});
  const double fixed_ns = time_of(gpu, warm, 1, 1e8);
  Costs costs;
  for (const char* name : kCostKeys) {
    const Key key = parse_key(name);
    const double per = static_cast<double>(key.small ? small_per_ms : per_ms) / 1e6;
    Cost cost;
    cost.iterations =
        static_cast<uint64_t>(std::max(1.0, (key.length_ns - std::min(fixed_ns, 1e4)) * per));
    cost.ns = time_of(gpu, key, cost.iterations, kSampleNs);
    costs.emplace(name, cost);
  }
  return costs;
}

double measure_again(Gpu* gpu, std::string_view key, const Cost& cost) {
  return time_of(gpu, parse_key(key), cost.iterations, kSampleNs);
}

}  // namespace softmig::bench
