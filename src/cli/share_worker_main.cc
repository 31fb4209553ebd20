// softmig share-worker: the process behind cli/share_worker.h.
#include <fmt/core.h>

#include <algorithm>
#include <deque>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/cuda_driver.h"
#include "cli/failure.h"
#include "cli/share_worker.h"
#include "sys/clock.h"

namespace softmig::cli {
namespace {

// Steps of a linear congruential generator, each on the one before: no compiler can leave one out,
// since what comes out could be 0. The simulated GPU takes a kernel of this name as many ns as its
// first parameter says.
constexpr const char* kKernel = R"(
.version 6.0
.target sm_50
.address_size 64
.visible .entry softmig_work(.param .u64 steps, .param .u64 sink)
{
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [steps];
  ld.param.u64 %rd2, [sink];
  cvta.to.global.u64 %rd3, %rd2;
  mov.u32 %r1, %tid.x;
NEXT:
  mad.lo.u32 %r1, %r1, 1664525, 1013904223;
  add.s64 %rd1, %rd1, -1;
  setp.ne.s64 %p1, %rd1, 0;
  @%p1 bra NEXT;
  setp.eq.u32 %p1, %r1, 0;
  @%p1 st.global.u32 [%rd3], %r1;
  ret;
}
)";

constexpr unsigned kThreads = 256;
constexpr double kUnitNs = 200'000, kPieceNs = 1e6, kAheadNs = 6e6;
constexpr uint64_t kFirstSteps = 20'000, kMostSteps = 1'000'000'000;
constexpr uint64_t kPollNs = 300'000, kReportNs = 100'000'000;
constexpr uint64_t kWarmNs = 300'000'000;

class Worker {
 public:
  // Empty, or what went wrong.
  std::string open(const std::string& uuid) {
    std::string trouble = driver_.load();
    if (!trouble.empty()) return trouble;
    CUdevice device = 0;
    CUmodule module = nullptr;
    int multiprocessors = 1;
    check(driver_.open(uuid, &device), "cuDevicePrimaryCtxRetain");
    check(driver_.cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                       device),
          "cuDeviceGetAttribute");
    check(driver_.cuModuleLoadData(&module, kKernel), "cuModuleLoadData");
    check(driver_.cuModuleGetFunction(&work_, module, "softmig_work"), "cuModuleGetFunction");
    check(driver_.cuMemAlloc_v2(&sink_, sizeof(uint64_t)), "cuMemAlloc");
    check(driver_.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    blocks_ = 2 * static_cast<unsigned>(multiprocessors);  // fills the GPU
    return {};
  }

  WorkUnit calibrate() {
    WorkUnit unit = {kFirstSteps, 0};
    // The clocks of an idle GPU are low.
    for (const uint64_t end = sys::monotonic_ns() + kWarmNs; sys::monotonic_ns() < end;) {
      unit.ns = time_of(unit.steps, 20);
    }
    // Launching counts more the shorter a kernel is: what is found is nearly right, then right.
    for (const int count : {100, 500}) {
      const double steps = static_cast<double>(unit.steps) * kUnitNs / unit.ns;
      unit.steps = std::clamp<uint64_t>(static_cast<uint64_t>(steps), 1, kMostSteps);
      unit.ns = time_of(unit.steps, count);
    }
    return unit;
  }

  // A start of 0 is now.
  void run(const WorkUnit& unit, uint64_t start_ns, double seconds) {
    if (start_ns == 0) start_ns = sys::monotonic_ns();
    const int count = std::max(1, static_cast<int>(kPieceNs / unit.ns));
    const uint64_t end = start_ns + static_cast<uint64_t>(seconds * 1e9);
    sleep_until(start_ns);
    double done = 0;
    uint64_t next_report = start_ns + kReportNs;
    for (uint64_t now = start_ns; now < end; now = sys::monotonic_ns()) {
      done += collect();
      if (now >= next_report) {
        report("at", done);
        next_report = now + kReportNs;
      }
      if (flying_ns_ < kAheadNs) {
        launch(unit, count);
      } else {
        sys::sleep_ns(kPollNs);
      }
    }
    report("ok", done + collect());
    check(driver_.cuCtxSynchronize(), "cuCtxSynchronize");
    collect();
  }

 private:
  struct Piece {
    CUevent end;
    double ns;
  };

  void check(CUresult result, const char* what) const {
    if (result == CUDA_SUCCESS) return;
    throw Failure(fmt::format("{} gave {}", what, driver_.name_of(result)));
  }

  static void sleep_until(uint64_t ns) {
    const uint64_t now = sys::monotonic_ns();
    if (ns > now) sys::sleep_ns(ns - now);
  }

  static void report(const char* kind, double done) {
    fmt::print("{} {} {:.0f}\n", kind, sys::monotonic_ns(), done);
    std::fflush(stdout);
  }

  void launch_one(uint64_t steps) {
    void* parameters[] = {&steps, &sink_};
    check(driver_.cuLaunchKernel(work_, blocks_, 1, 1, kThreads, 1, 1, 0, stream_, parameters,
                                 nullptr),
          "cuLaunchKernel");
  }

  double time_of(uint64_t steps, int count) {
    launch_one(steps);
    check(driver_.cuCtxSynchronize(), "cuCtxSynchronize");
    const uint64_t begin = sys::monotonic_ns();
    for (int i = 0; i < count; i++) launch_one(steps);
    check(driver_.cuCtxSynchronize(), "cuCtxSynchronize");
    return static_cast<double>(sys::monotonic_ns() - begin) / count;
  }

  void launch(const WorkUnit& unit, int count) {
    for (int i = 0; i < count; i++) launch_one(unit.steps);
    const Piece piece = {event(), unit.ns * count};
    check(driver_.cuEventRecord(piece.end, stream_), "cuEventRecord");
    flying_.push_back(piece);
    flying_ns_ += piece.ns;
  }

  // GPU time of what was found to be done.
  double collect() {
    double done = 0;
    while (!flying_.empty()) {
      const Piece piece = flying_.front();
      const CUresult result = driver_.cuEventQuery(piece.end);
      if (result == CUDA_ERROR_NOT_READY) break;
      check(result, "cuEventQuery");
      flying_.pop_front();
      events_.push_back(piece.end);
      done += piece.ns;
    }
    flying_ns_ -= done;
    return done;
  }

  CUevent event() {
    CUevent event = nullptr;
    if (events_.empty()) {
      check(driver_.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    } else {
      event = events_.back();
      events_.pop_back();
    }
    return event;
  }

  CudaDriver driver_;
  CUfunction work_ = nullptr;
  CUstream stream_ = nullptr;
  CUdeviceptr sink_ = 0;
  unsigned blocks_ = 1;
  std::deque<Piece> flying_;
  double flying_ns_ = 0;
  std::vector<CUevent> events_;
};

std::string answer(Worker* worker, const std::string& request) {
  std::istringstream words(request);
  std::string verb, uuid;
  words >> verb;
  if (verb == "open") {
    words >> uuid;
    const std::string trouble = worker->open(uuid);
    return trouble.empty() ? "ok" : "error " + trouble;
  }
  if (verb == "calibrate") {
    const WorkUnit unit = worker->calibrate();
    return fmt::format("ok {} {}", unit.steps, unit.ns);
  }
  return "error no such request: " + verb;
}

void serve(Worker* worker, const std::string& request) {
  std::istringstream words(request);
  std::string verb;
  WorkUnit unit;
  uint64_t start_ns = 0;
  double seconds = 0;
  if (words >> verb >> unit.steps >> unit.ns >> start_ns >> seconds && verb == "run") {
    return worker->run(unit, start_ns, seconds);
  }
  fmt::print("{}\n", answer(worker, request));
  std::fflush(stdout);
}

}  // namespace

void add_share_worker(CLI::App& app, int* status) {
  CLI::App* command = app.add_subcommand("share-worker", "Keep a GPU busy on behalf of demo");
  command->group("");  // not in the help: nobody types it
  command->callback([status] {
    Worker worker;
    for (std::string request; std::getline(std::cin, request);) {
      try {
        serve(&worker, request);
      } catch (const Failure& failure) {
        fmt::print("error {}\n", failure.what());
        std::fflush(stdout);
      }
    }
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
