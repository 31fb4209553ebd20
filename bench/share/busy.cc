// busy SECONDS [START_NS]: how busy NVML saw the GPU and each process on it, from START_NS
// (CLOCK_MONOTONIC) on. The outside meter: it has no context and knows nothing of the loads. Run it
// with nothing preloaded.
//
// One line of JSON: "device" is the mean of the device's rate, "processes" "PID:PERCENT ..." the
// mean over time of each process's samples, both in percent of the time in which a kernel ran.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "common/gpu.h"
#include "common/nvml.h"
#include "share/gpu.h"

namespace softmig::bench {
namespace {

constexpr int64_t kPollNs = 50'000'000;

uint64_t wall_us() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000 + static_cast<uint64_t>(t.tv_nsec) / 1000;
}

class Meter {
 public:
  explicit Meter(const gpu_test::Nvml& nvml) : nvml_(nvml) {
    nvml_.nvmlDeviceGetHandleByIndex_v2(0, &device_);
  }

  void begin() { begin_us_ = seen_us_ = wall_us(); }

  void poll() {
    nvmlUtilization_t rates{};
    if (nvml_.nvmlDeviceGetUtilizationRates(device_, &rates) == NVML_SUCCESS) {
      rate_sum_ += rates.gpu;
      ++rates_;
    }
    unsigned int count = 0;
    nvml_.nvmlDeviceGetProcessUtilization(device_, nullptr, &count, seen_us_);
    std::vector<nvmlProcessUtilizationSample_t> list(count + 16);
    count = static_cast<unsigned int>(list.size());
    if (nvml_.nvmlDeviceGetProcessUtilization(device_, list.data(), &count, seen_us_) !=
        NVML_SUCCESS)
      return;
    list.resize(count);
    uint64_t newest = seen_us_;
    for (const auto& sample : list) {
      if (sample.timeStamp <= seen_us_) continue;
      newest = std::max<uint64_t>(newest, sample.timeStamp);
      take(sample);
    }
    seen_us_ = newest;
  }

  void print() const {
    std::string text;
    for (const auto& [pid, row] : processes_) {
      if (row.last_us <= begin_us_) continue;
      const double percent = row.sum / static_cast<double>(seen_us_ - begin_us_);
      char digits[48];
      std::snprintf(digits, sizeof digits, "%s%u:%.2f", text.empty() ? "" : " ", pid, percent);
      text += digits;
    }
    gpu_test::Line("busy")
        .add("device", rates_ == 0 ? 0 : rate_sum_ / rates_)
        .add("processes", text)
        .add("samples", samples_)
        .add("ok", true)
        .print();
  }

 private:
  struct Row {
    uint64_t last_us = 0;
    double sum = 0;  // percent x us
  };

  // A sample stands for the time since the one before.
  void take(const nvmlProcessUtilizationSample_t& sample) {
    Row& row = processes_[sample.pid];
    const uint64_t since = std::max(row.last_us, begin_us_);
    if (sample.timeStamp <= since) return;
    row.sum += static_cast<double>(sample.smUtil) * static_cast<double>(sample.timeStamp - since);
    row.last_us = sample.timeStamp;
    ++samples_;
  }

  const gpu_test::Nvml& nvml_;
  nvmlDevice_t device_ = nullptr;
  uint64_t begin_us_ = 0, seen_us_ = 0, samples_ = 0;
  double rate_sum_ = 0, rates_ = 0;
  std::map<unsigned int, Row> processes_;
};

int program(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: busy SECONDS [START_NS]\n");
    return 2;
  }
  gpu_test::Nvml nvml;
  if (!nvml.open()) give_up("no NVML");
  Meter meter(nvml);
  if (argc > 2) sleep_until(std::strtoll(argv[2], nullptr, 10));
  meter.begin();
  const int64_t end = now_ns() + static_cast<int64_t>(std::atof(argv[1]) * 1e9);
  for (int64_t next = now_ns() + kPollNs; next <= end; next += kPollNs) {
    sleep_until(next);
    meter.poll();
  }
  meter.print();
  return 0;
}

}  // namespace
}  // namespace softmig::bench

int main(int argc, char** argv) { return softmig::bench::program(argc, argv); }
