// One program that uses the GPU, and what share of it it got.
//
//   share calibrate                                  what every unit of work costs, alone
//   share run COSTS LOAD SECONDS [SKIP [START_NS [DEVICE]]]
//                                                    one load from START_NS (CLOCK_MONOTONIC) on
//   share serve [COSTS]                              commands on standard input:
//     calibrate | again KEY | run LOAD SECONDS SKIP START_NS
//
// COSTS is the "costs" of a calibration made natively; loads.h lists the loads. SKIP seconds at the
// start count for no figure. Answers are lines of JSON; serve says first that it is ready: it has a
// context and a kernel and has launched nothing.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>

#include "share/costs.h"
#include "share/gpu.h"
#include "share/loads.h"

namespace softmig::bench {
namespace {

int buckets(double seconds) {
  return static_cast<int>(std::lround(seconds * 1e9 / static_cast<double>(Series::kBucketNs)));
}

void calibrate(Gpu* gpu, Costs* costs) {
  *costs = measure_costs(gpu);
  gpu_test::Line("costs")
      .add("costs", costs_text(*costs))
      .add("gpu", gpu->name())
      .add("right", gpu->verdict() == Gpu::Result::kRight)
      .add("ok", true)
      .print();
}

void again(Gpu* gpu, const Costs& costs, const std::string& key) {
  const auto at = costs.find(key);
  if (at == costs.end()) give_up("no cost of " + key + " was given");
  const double ns = measure_again(gpu, key, at->second);
  gpu->verdict();
  gpu_test::Line("again").add("key", key).add("before_ns", at->second.ns).add("ns", ns).print();
}

void run(Gpu* gpu, const Costs& costs, const std::string& load, double seconds, double skip,
         int64_t start_ns) {
  const std::optional<Spec> spec = Spec::parse(load);
  if (!spec) give_up("no such load: " + load);
  if (start_ns == 0) start_ns = now_ns() + 100'000'000;
  Runner runner(gpu, costs, *spec, {start_ns, buckets(skip), buckets(seconds)});
  const bool late = now_ns() > start_ns;
  runner.run();
  gpu_test::Line line("share");
  line.add("load", load).add("pid", static_cast<int64_t>(getpid())).add("start_ns", start_ns);
  line.add("device", gpu->device()).add("seconds", seconds).add("skip", skip).add("late", late);
  runner.report(&line);
  line.add("ok", true).print();
}

int serve(Gpu* gpu, Costs costs) {
  gpu_test::Line("ready")
      .add("pid", static_cast<int64_t>(getpid()))
      .add("library", has_library())
      .add("ok", true)
      .print();
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream words(text);
    std::string command, name;
    words >> command >> name;
    if (command == "calibrate") {
      calibrate(gpu, &costs);
    } else if (command == "again") {
      again(gpu, costs, name);
    } else if (command == "run") {
      double seconds = 0, skip = 0;
      int64_t start_ns = 0;
      words >> seconds >> skip >> start_ns;
      run(gpu, costs, name, seconds, skip, start_ns);
    } else {
      give_up("no such command: " + text);
    }
  }
  return 0;
}

int usage() {
  std::fprintf(stderr,
               "usage: share calibrate | run COSTS LOAD SECONDS [SKIP [START_NS [DEVICE]]] | serve "
               "[COSTS]\n");
  return 2;
}

int program(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const bool one = what == "run" && argc >= 5;
  if (what != "calibrate" && what != "serve" && !one) return usage();
  Costs costs;
  if (argc > 2 && !parse_costs(argv[2], &costs)) return usage();
  Gpu gpu;
  gpu.open(argc > 7 ? std::atoi(argv[7]) : 0);
  if (what == "serve") return serve(&gpu, costs);
  if (what == "calibrate")
    calibrate(&gpu, &costs);
  else
    run(&gpu, costs, argv[3], std::atof(argv[4]), argc > 5 ? std::atof(argv[5]) : 0,
        argc > 6 ? std::strtoll(argv[6], nullptr, 10) : 0);
  return 0;
}

}  // namespace
}  // namespace softmig::bench

int main(int argc, char** argv) { return softmig::bench::program(argc, argv); }
