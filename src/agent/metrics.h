// What Prometheus gets, made of one snapshot of the node. The rows are metrics.def.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/enforcer.h"

namespace softmig::agent {

struct JobRow {
  std::string user, account, job, gpu, gpu_type;
  uint64_t usage = 0, total = 0;
  std::optional<double> utilization, memory_utilization;  // percent
  uint64_t limit = 0, share = 0;                          // bytes, percent; 0: none
  // What only its region says; absent without one.
  bool has_ledger = false;
  uint64_t ledger = 0, peak = 0, unaccounted = 0, refusals = 0, gpu_ns = 0, waited_ns = 0,
           launches = 0;
  uint64_t processes = 0;
  std::vector<policy::VerdictKind> verdicts;
};

struct GpuRow {
  std::string gpu, gpu_type, uuid;
  uint64_t memory = 0, used = 0, jobs = 0, processes = 0;
  std::optional<unsigned> busy;  // percent
};

struct Snapshot {
  std::vector<JobRow> jobs;
  std::vector<GpuRow> gpus;
  EnforcerCounts counts;
  uint64_t reclaimed = 0;
  bool driver_up = false;
  uint64_t driver_failures = 0, looks = 0;
  double look_seconds = 0, last_look = 0;
  std::string version, driver, memory_backend;
};

enum class MetricLabels { kJob, kJobVerdict, kGpu, kVerdict, kAction, kInfo, kNone };
enum class MetricKind { kGauge, kCounter };
struct MetricRow {
  const char* name;
  MetricKind kind;
  MetricLabels labels;
  const char* help;
};
const std::vector<MetricRow>& metric_rows();
// "user, account": the labels of a row, for the docs.
std::string label_names(MetricLabels labels);

std::vector<prometheus::MetricFamily> families(const Snapshot& snapshot);

// Hands out the latest snapshot; written by the agent's loop, read by the server's threads.
class Board : public prometheus::Collectable {
 public:
  void put(Snapshot snapshot);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_ = std::make_shared<Snapshot>();
};

}  // namespace softmig::agent
