// What is exported, what the docs say of it, and what the dashboard asks for.
#include "agent/metrics.h"

#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

namespace softmig::agent {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(std::string(SOFTMIG_SOURCE_DIR) + "/" + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

JobRow full_row() {
  JobRow row;
  row.user = "alice";
  row.account = "def-alice";
  row.job = "4711";
  row.gpu = "0";
  row.gpu_type = "NVIDIA L40S";
  row.usage = 5;
  row.total = row.limit = 12;
  row.share = 25;
  row.utilization = 24;
  row.memory_utilization = 12;
  row.has_ledger = true;
  row.gpu_ns = 1'500'000'000;
  row.verdicts = {policy::VerdictKind::kLedger};
  return row;
}

Snapshot full_snapshot() {
  Snapshot snapshot;
  snapshot.jobs.push_back(full_row());
  GpuRow gpu;
  gpu.gpu = "0";
  gpu.busy = 50;
  snapshot.gpus.push_back(gpu);
  return snapshot;
}

std::string text_of(const Snapshot& snapshot) {
  return prometheus::TextSerializer().Serialize(families(snapshot));
}

TEST(Metrics, EveryRowIsExported) {
  const std::vector<prometheus::MetricFamily> all = families(full_snapshot());
  ASSERT_EQ(all.size(), metric_rows().size());
  for (size_t i = 0; i < all.size(); i++) {
    EXPECT_EQ(all[i].name, metric_rows()[i].name);
    std::string names;
    for (const auto& label : all[i].metric.front().label) {
      names += (names.empty() ? "" : ", ") + label.name;
    }
    EXPECT_EQ(names, label_names(metric_rows()[i].labels)) << all[i].name;
  }
}

TEST(Metrics, ValuesComeInTheirUnits) {
  const std::string text = text_of(full_snapshot());
  const std::string labels =
      R"({user="alice",account="def-alice",slurmjobid="4711",gpu="0",gpu_type="NVIDIA L40S"})";
  EXPECT_NE(text.find("slurm_job_memory_usage_gpu" + labels + " 5"), std::string::npos) << text;
  EXPECT_NE(text.find("softmig_job_compute_limit_ratio" + labels + " 0.25"), std::string::npos);
  EXPECT_NE(text.find("softmig_job_gpu_seconds_total" + labels + " 1.5"), std::string::npos);
  EXPECT_NE(text.find(R"(verdict="ledger"} 1)"), std::string::npos);
}

TEST(Metrics, AJobWithoutLimitsOrRegionHasNone) {
  Snapshot snapshot = full_snapshot();
  JobRow& row = snapshot.jobs.front();
  row.limit = row.share = 0;
  row.has_ledger = false;
  row.verdicts.clear();
  const std::string text = text_of(snapshot);
  for (const char* name : {"softmig_job_memory_limit_bytes{", "softmig_job_compute_limit_ratio{",
                           "softmig_job_refusals_total{", "softmig_job_verdict{"}) {
    EXPECT_EQ(text.find(name), std::string::npos) << name;
  }
}

TEST(MetricsPage, HasTheTable) {
  std::string table = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricRow& row : metric_rows()) {
    table += std::string("| `") + row.name + "` | " +
             (row.kind == MetricKind::kGauge ? "gauge" : "counter") + " | " +
             label_names(row.labels) + " | " + row.help + " |\n";
  }
  EXPECT_NE(contents("docs/metrics.md").find(table), std::string::npos) << table;
}

TEST(AgentPage, HasTheVerdicts) {
  std::string table = "| verdict | what it says |\n|---|---|\n";
  for (int i = 0; i < policy::kVerdictKinds; i++) {
    const auto kind = static_cast<policy::VerdictKind>(i);
    table += std::string("| `") + policy::verdict_name(kind) + "` | " + policy::verdict_help(kind) +
             " |\n";
  }
  EXPECT_NE(contents("docs/agent.md").find(table), std::string::npos) << table;
}

// Names that a query asks for: words that begin like ours.
std::set<std::string> names_in(const std::string& query) {
  static const std::regex name("(slurm_job|softmig)_[a-z_]+");
  std::set<std::string> names;
  for (std::sregex_iterator at(query.begin(), query.end(), name), end; at != end; ++at) {
    names.insert(at->str());
  }
  return names;
}

TEST(Dashboard, AsksOnlyForWhatIsExported) {
  std::set<std::string> exported;
  for (const MetricRow& row : metric_rows()) exported.insert(row.name);
  const auto board = nlohmann::json::parse(contents("data/dashboard.json"));
  std::set<std::string> asked;
  for (const auto& panel : board.at("panels")) {
    if (panel.at("type") == "row") continue;
    ASSERT_FALSE(panel.at("targets").empty()) << panel.at("title");
    for (const auto& target : panel.at("targets")) {
      const auto names = names_in(target.at("expr"));
      EXPECT_FALSE(names.empty()) << target.at("expr");
      asked.insert(names.begin(), names.end());
    }
  }
  for (const auto& variable : board.at("templating").at("list")) {
    if (!variable.contains("query") || variable.at("type") != "query") continue;
    const auto& query = variable.at("query");
    const auto names = names_in(query.is_string() ? query.get<std::string>()
                                                  : query.at("query").get<std::string>());
    asked.insert(names.begin(), names.end());
  }
  for (const std::string& name : asked) EXPECT_TRUE(exported.contains(name)) << name;
  EXPECT_GE(asked.size(), 12U);
}

}  // namespace
}  // namespace softmig::agent
