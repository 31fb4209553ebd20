// route ROUTE SIZE [LOOKUP] [--cap BYTES] [--device N] [--hold MS]
//
// Takes device memory by one route until it is refused, gives it back, takes it once more, and
// prints one line of JSON. Exit status 0: the end was CUDA_ERROR_OUT_OF_MEMORY and the figures are
// the same as before. LOOKUP is the door through which the functions are found (common/driver.h);
// `sweep` tries every one in turn within this process.
#include <cstdio>
#include <cstdlib>
#include <random>

#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kSmallest = 512;
constexpr uint64_t kTooManyForASecondRound = 100000;

bool refused(CUresult code) { return code == CUDA_ERROR_OUT_OF_MEMORY; }

void take_until_refused(Route& route, uint64_t bytes, uint64_t cap, Filled* filled) {
  for (;;) {
    if (filled->granted >= cap) {
      filled->capped = true;
      return;
    }
    uint64_t got = 0;
    filled->last = route.take(bytes, &got);
    if (filled->last != CUDA_SUCCESS) return;
    filled->granted += got;
    ++filled->pieces;
  }
}

Filled fill_mixed(Route& route, uint64_t cap) {
  Filled filled;
  std::mt19937_64 random(42);
  uint64_t largest = kGiB;
  while (largest >= kSmallest && filled.granted < cap) {
    const double log_span = __builtin_log2(static_cast<double>(largest) / kSmallest);
    const double exponent = log_span * (static_cast<double>(random() % 10000) / 9999.0);
    const auto bytes = static_cast<uint64_t>(kSmallest * __builtin_exp2(exponent));
    uint64_t got = 0;
    filled.last = route.take(bytes, &got);
    if (filled.last == CUDA_SUCCESS) {
      filled.granted += got;
      ++filled.pieces;
    } else if (refused(filled.last)) {
      largest = bytes / 2;
    } else {
      return filled;
    }
  }
  filled.capped = filled.granted >= cap;
  return filled;
}

bool keeps_memory(const std::string& route) {
  return route == "streams" || route == "green" || route == "all";
}

// Pools and random sizes end a little differently each time; everything else must not, by more than
// what shares the last page.
bool same_again(const Options& options, uint64_t first, uint64_t second) {
  const uint64_t apart = first > second ? first - second : second - first;
  if (options.route == "all") return apart <= first / 5 + 256 * kMiB;
  if (options.size == "mixed" || options.route == "pool_hold")
    return apart <= first / 50 + 64 * kMiB;
  return apart < 2 * kMiB;
}

struct Outcome {
  bool ok = false;
  bool skipped = false;
};

Outcome run_route(const Options& options, const Lookup& lookup) {
  Line line("route");
  line.add("route", options.route).add("lookup", lookup_name(lookup)).add("size", options.size);
  Session session;
  std::string step;
  const CUresult opened = session.open(lookup, options.device, &step);
  if (opened == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED) {
    line.add("skipped", true).add("ok", true).add("text", step).print();
    return {true, true};
  }
  if (opened != CUDA_SUCCESS) {
    line.add("ok", false).add("text", step).add("result", opened).print();
    return {};
  }
  bool missing = false;
  const double start = now_ms();
  std::unique_ptr<Route> route = make_route(options.route, session, &missing);
  if (route == nullptr) {
    line.add("skipped", missing)
        .add("ok", missing)
        .add("text", missing ? "functions not found" : "no such route")
        .print();
    return {missing, missing};
  }
  const uint64_t before = session.free_bytes();
  const Filled filled = fill(*route, options.size, options.cap);
  sleep_ms(options.hold_ms);
  const CUresult freed = route->give_back();
  const uint64_t after_first = session.free_bytes();
  Filled again;
  const bool second_round = filled.pieces < kTooManyForASecondRound && !filled.capped;
  if (second_round) {
    again = fill(*route, options.size, options.cap);
    route->give_back();
  }
  route->finish();
  const uint64_t after = session.free_bytes();
  route.reset();
  // The 32-bit functions may refuse for reasons of their own; they only must not grant too much.
  const bool ended = refused(filled.last) || (options.route == "alloc_v1" && filled.granted == 0);
  // The driver keeps what it took for streams and green contexts until the context ends: there, the
  // second round must leave what the first one left.
  const bool same_after = keeps_memory(options.route) ? after >= after_first : after == before;
  const bool ok = ended && freed == CUDA_SUCCESS && same_after &&
                  (!second_round || same_again(options, filled.granted, again.granted));
  line.add("pieces", filled.pieces).add("granted", filled.granted).add("result", filled.last);
  line.add("result_name", error_name(session.driver, filled.last)).add("capped", filled.capped);
  line.add("freed", freed).add("free_before", before).add("free_after", after);
  line.add("total", session.total_bytes());
  if (second_round) line.add("granted_again", again.granted);
  line.add("ms", now_ms() - start).add("ok", ok).print();
  session.driver.cuDevicePrimaryCtxRelease_v2(session.device);
  return {ok, false};
}

// Keeps the context across all doors, so that it is made only once.
int sweep(const Options& options) {
  Session keeper;
  std::string step;
  if (CUresult code = keeper.open(Lookup{}, options.device, &step)) {
    Line("route")
        .add("route", options.route)
        .add("ok", false)
        .add("text", step)
        .add("result", code)
        .print();
    return 1;
  }
  int failed = 0;
  for (const Lookup& lookup : all_lookups()) failed += !run_route(options, lookup).ok;
  return failed == 0 ? 0 : 1;
}

int usage() {
  std::fprintf(stderr,
               "usage: route ROUTE SIZE [LOOKUP] [--cap BYTES] [--device N] [--hold MS]\nroutes:");
  for (const std::string& name : piece_routes()) std::fprintf(stderr, " %s", name.c_str());
  std::fprintf(stderr,
               " share share_exit ipc ipc_exit module_global library_global heap_limit "
               "printf_limit stack_limit\n");
  return 2;
}

bool parse(int argc, char** argv, Options* options) {
  int position = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool value = argument == "--cap" || argument == "--device" || argument == "--hold";
    if (value && i + 1 >= argc) return false;
    if (argument == "--cap")
      options->cap = parse_size(argv[++i]);
    else if (argument == "--device")
      options->device = std::atoi(argv[++i]);
    else if (argument == "--hold")
      options->hold_ms = std::atof(argv[++i]);
    else if (position == 0)
      options->route = argument, ++position;
    else if (position == 1)
      options->size = argument, ++position;
    else if (position == 2)
      options->lookup = argument, ++position;
    else
      return false;
  }
  return position >= 2 && options->cap > 0;
}

}  // namespace

Filled fill(Route& route, std::string_view size, uint64_t cap) {
  if (size == "mixed") return fill_mixed(route, cap);
  Filled filled;
  if (size.substr(0, 5) == "fill:") {
    size = size.substr(5);
    for (uint64_t bytes : {64 * kMiB, 2 * kMiB}) {
      if (bytes <= parse_size(size) || filled.capped) continue;
      take_until_refused(route, bytes, cap, &filled);
      if (!filled.capped && !refused(filled.last)) return filled;
    }
  }
  if (!filled.capped) take_until_refused(route, parse_size(size), cap, &filled);
  return filled;
}

}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Options options;
  if (!parse(argc, argv, &options)) return usage();
  int status = run_shared_route(options);
  if (status < 0) status = run_single_request(options);
  if (status >= 0) return status;
  if (options.lookup == "sweep") return sweep(options);
  Lookup lookup;
  if (!parse_lookup(options.lookup, &lookup)) return usage();
  const Outcome outcome = run_route(options, lookup);
  return outcome.skipped ? kExitSkipped : outcome.ok ? 0 : 1;
}
