#include "agent/metrics.h"

#include <utility>

namespace softmig::agent {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using Labels = std::vector<ClientMetric::Label>;

constexpr double kSecond = 1e9;

enum Id {
#define SM_METRIC(id, name, type, labels, help) id,
#include "agent/metrics.def"
#undef SM_METRIC
  kIds
};

// Families of all rows, filled by id.
class Filling {
 public:
  Filling() {
    for (const MetricRow& row : metric_rows()) {
      const auto type = row.kind == MetricKind::kGauge ? prometheus::MetricType::Gauge
                                                       : prometheus::MetricType::Counter;
      families_.push_back({row.name, row.help, type, {}});
    }
  }

  void add(Id id, const Labels& labels, double value) {
    ClientMetric metric;
    metric.label = labels;
    if (families_[id].type == prometheus::MetricType::Gauge) {
      metric.gauge.value = value;
    } else {
      metric.counter.value = value;
    }
    families_[id].metric.push_back(std::move(metric));
  }
  void add(Id id, const Labels& labels, uint64_t value) {
    add(id, labels, static_cast<double>(value));
  }

  std::vector<MetricFamily> take() && {
    std::erase_if(families_, [](const MetricFamily& family) { return family.metric.empty(); });
    return std::move(families_);
  }

 private:
  std::vector<MetricFamily> families_;
};

void add_job(const JobRow& row, Filling* to) {
  const Labels labels = {{"user", row.user},
                         {"account", row.account},
                         {"slurmjobid", row.job},
                         {"gpu", row.gpu},
                         {"gpu_type", row.gpu_type}};
  to->add(kUsage, labels, row.usage);
  to->add(kTotal, labels, row.total);
  if (row.utilization) to->add(kUtilization, labels, *row.utilization);
  if (row.memory_utilization) to->add(kMemoryUtilization, labels, *row.memory_utilization);
  if (row.limit != 0) to->add(kLimit, labels, row.limit);
  if (row.share != 0) to->add(kShare, labels, static_cast<double>(row.share) / 100);
  to->add(kProcesses, labels, row.processes);
  for (const policy::VerdictKind kind : row.verdicts) {
    Labels named = labels;
    named.push_back({"verdict", policy::verdict_name(kind)});
    to->add(kJobVerdict, named, 1.0);
  }
  if (!row.has_ledger) return;
  to->add(kLedger, labels, row.ledger);
  to->add(kPeak, labels, row.peak);
  to->add(kUnaccounted, labels, row.unaccounted);
  to->add(kRefusals, labels, row.refusals);
  to->add(kGpuSeconds, labels, static_cast<double>(row.gpu_ns) / kSecond);
  to->add(kGateSeconds, labels, static_cast<double>(row.waited_ns) / kSecond);
  to->add(kLaunches, labels, row.launches);
}

void add_gpu(const GpuRow& row, Filling* to) {
  const Labels labels = {{"gpu", row.gpu}, {"gpu_type", row.gpu_type}, {"uuid", row.uuid}};
  to->add(kGpuMemory, labels, row.memory);
  to->add(kGpuUsed, labels, row.used);
  if (row.busy) to->add(kGpuBusy, labels, *row.busy / 100.0);
  to->add(kGpuJobs, labels, row.jobs);
  to->add(kGpuProcesses, labels, row.processes);
}

void add_agent(const Snapshot& snapshot, Filling* to) {
  for (int i = 0; i < policy::kVerdictKinds; i++) {
    const char* name = policy::verdict_name(static_cast<policy::VerdictKind>(i));
    to->add(kVerdicts, {{"verdict", name}}, snapshot.counts.verdicts[static_cast<size_t>(i)]);
  }
  to->add(kActions, {{"action", "kill"}}, snapshot.counts.kills);
  to->add(kActions, {{"action", "kill_failed"}}, snapshot.counts.failed_kills);
  to->add(kActions, {{"action", "cancel"}}, snapshot.counts.cancels);
  to->add(kActions, {{"action", "reclaim"}}, snapshot.reclaimed);
  to->add(kDriverUp, {}, snapshot.driver_up ? 1.0 : 0.0);
  to->add(kDriverFailures, {}, snapshot.driver_failures);
  to->add(kLooks, {}, snapshot.looks);
  to->add(kLookSeconds, {}, snapshot.look_seconds);
  to->add(kLastLook, {}, snapshot.last_look);
  to->add(kInfo,
          {{"version", snapshot.version},
           {"driver", snapshot.driver},
           {"memory_backend", snapshot.memory_backend}},
          1.0);
}

}  // namespace

const std::vector<MetricRow>& metric_rows() {
  static const std::vector<MetricRow> rows = {
#define SM_METRIC(id, name, type, labels, help) \
  {name, MetricKind::type, MetricLabels::labels, help},
#include "agent/metrics.def"
#undef SM_METRIC
  };
  return rows;
}

std::string label_names(MetricLabels labels) {
  switch (labels) {
    case MetricLabels::kJob:
      return "user, account, slurmjobid, gpu, gpu_type";
    case MetricLabels::kJobVerdict:
      return "user, account, slurmjobid, gpu, gpu_type, verdict";
    case MetricLabels::kGpu:
      return "gpu, gpu_type, uuid";
    case MetricLabels::kVerdict:
      return "verdict";
    case MetricLabels::kAction:
      return "action";
    case MetricLabels::kInfo:
      return "version, driver, memory_backend";
    case MetricLabels::kNone:
      return "";
  }
  return "";
}

std::vector<MetricFamily> families(const Snapshot& snapshot) {
  Filling filling;
  for (const JobRow& row : snapshot.jobs) add_job(row, &filling);
  for (const GpuRow& row : snapshot.gpus) add_gpu(row, &filling);
  add_agent(snapshot, &filling);
  return std::move(filling).take();
}

void Board::put(Snapshot snapshot) {
  auto fresh = std::make_shared<const Snapshot>(std::move(snapshot));
  const std::lock_guard lock(mutex_);
  snapshot_ = std::move(fresh);
}

std::vector<MetricFamily> Board::Collect() const {
  std::shared_ptr<const Snapshot> snapshot;
  {
    const std::lock_guard lock(mutex_);
    snapshot = snapshot_;
  }
  return families(*snapshot);
}

}  // namespace softmig::agent
