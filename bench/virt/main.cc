// virt serve     commands on standard input, one a line; meters.h says what they measure
//
//   about | memory ROUNDS LIVE... | cache SECONDS | contend THREADS ROUNDS START_NS
//   fill | drop | deny ROUNDS [MIB] | fragment MIB | degrade ITERATIONS
//   copy KIND MIB SECONDS START_NS | crash | lend MIB PATH | borrow MIB PATH | peek ADDRESS
// virt context SINCE_NS
//   makes a context and says how long after SINCE_NS (CLOCK_MONOTONIC) that was, and what the
//   process had of a processor until then
//
// serve says first that it is ready: it has a context and a kernel and has launched nothing.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "virt/meters.h"

namespace softmig::bench {
namespace {

using gpu_test::kGiB;
using gpu_test::kMiB;
using gpu_test::Line;

void about(const Gpu& gpu) {
  int count = 0;
  must(gpu.driver().cuDeviceGetCount(&count), "cuDeviceGetCount");
  const Info info = memory_info(gpu.driver());
  Line line("about");
  line.add("gpu", gpu.name()).add("devices", count);
  line.add("free", info.free).add("total", info.total).add("ok", true).print();
}

void report_filled(const Gpu& gpu, Held* held) {
  const CUresult code = held->fill(kGiB);
  const Info info = memory_info(gpu.driver());
  Line line("fill");
  line.add("granted", held->bytes()).add("pieces", static_cast<uint64_t>(held->pieces()));
  line.add("result", code).add("free", info.free).add("total", info.total);
  line.add("ok", code == CUDA_ERROR_OUT_OF_MEMORY).print();
}

// One command; false if there is none of that name.
bool obey(Gpu* gpu, Held* held, std::istringstream& words) {
  std::string command, kind, path;
  double seconds = 0;
  int64_t start_ns = 0;
  uint64_t mib = 0, number = 0;
  int rounds = 0, threads = 0;
  words >> command;
  if (command == "about") {
    about(*gpu);
  } else if (command == "memory" && words >> rounds) {
    std::vector<int> live;
    for (int count = 0; words >> count;) live.push_back(count);
    memory_calls(*gpu, rounds, live);
  } else if (command == "cache" && words >> seconds) {
    cache_blocks(*gpu, seconds);
  } else if (command == "contend" && words >> threads >> rounds >> start_ns) {
    contend(*gpu, threads, rounds, start_ns);
  } else if (command == "fill") {
    report_filled(*gpu, held);
  } else if (command == "drop") {
    held->drop();
    Line("dropped").add("ok", true).print();
  } else if (command == "deny" && words >> rounds) {
    words >> mib;
    deny(*gpu, rounds, mib * kMiB);
  } else if (command == "fragment" && words >> mib) {
    fragment(*gpu, mib * kMiB);
  } else if (command == "degrade" && words >> number) {
    degrade(gpu, number);
  } else if (command == "copy" && words >> kind >> mib >> seconds >> start_ns) {
    copy(*gpu, kind, mib * kMiB, seconds, start_ns);
  } else if (command == "crash") {
    crash(gpu);
  } else if (command == "lend" && words >> mib >> path) {
    lend(*gpu, mib * kMiB, path);
  } else if (command == "peek" && words >> number) {
    peek(*gpu, number);
  } else if (command == "borrow" && words >> mib >> path) {
    borrow(*gpu, mib * kMiB, path);
  } else {
    return false;
  }
  return true;
}

int serve() {
  Gpu gpu;
  gpu.open(0);
  Held held(gpu.driver());
  Line line("ready");
  line.add("pid", static_cast<int64_t>(getpid())).add("library", has_library());
  line.add("ok", true).print();
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream words(text);
    if (!obey(&gpu, &held, words)) give_up("no such command: " + text);
  }
  return 0;
}

int context(int64_t since_ns) {
  gpu_test::Session session;
  std::string step;
  must(session.open(gpu_test::Lookup{}, 0, &step), step.c_str());
  const auto took = static_cast<double>(now_ns() - since_ns);
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  const auto cpu = static_cast<double>(int64_t{used.tv_sec} * 1000000000 + used.tv_nsec);
  Line("context")
      .add("ns", took)
      .add("cpu_ns", cpu)
      .add("library", has_library())
      .add("ok", true)
      .print();
  return 0;
}

}  // namespace
}  // namespace softmig::bench

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "serve") return softmig::bench::serve();
  if (what == "context" && argc > 2)
    return softmig::bench::context(std::strtoll(argv[2], nullptr, 10));
  std::fprintf(stderr, "usage: virt serve | context SINCE_NS\n");
  return 2;
}
