// What one unit of each load takes on the GPU when it has the GPU alone and nothing is preloaded:
// the measure of all shares. Made once per run, by a process of its own, and given to all others.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "share/gpu.h"

namespace softmig::bench {

inline constexpr int kGraphNodes = 20;

struct Cost {
  uint64_t iterations = 0;  // of the kernel
  double ns = 0;            // one kernel, or one graph, back to back with its like
};

// Keys: "200us" (a kernel that fills the device), "small:200us" (one that leaves room for seven of
// its kind), "graph:20us" (a graph of kGraphNodes kernels that fill the device).
using Costs = std::map<std::string, Cost, std::less<>>;

// "20us", "2ms", "0.5s": in ns; 0 if it is not a length of time.
double parse_length(std::string_view text);
// "200us=123:200100.5,graph:20us=12:402000": what measure_costs() gave, as one word.
bool parse_costs(std::string_view text, Costs* costs);
std::string costs_text(const Costs& costs);

// Measures every key of kCostKeys; takes about three seconds.
Costs measure_costs(Gpu* gpu);
// Measures one key again with the iterations that it had.
double measure_again(Gpu* gpu, std::string_view key, const Cost& cost);

}  // namespace softmig::bench
