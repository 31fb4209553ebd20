// /etc/softmig/softmig.conf: what a site decides about the slices of a node. Read by the prolog,
// the agent and, for the shards alone, by slurm/softmig_rules.lua.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "policy/verdict.h"

namespace softmig::host {

inline constexpr const char* kSiteConfigFile = "/etc/softmig/softmig.conf";
inline constexpr uint64_t kDefaultShards = 4, kMaxShards = 32;

// A value for all types of GPU, and for some of them. Types are told apart without case.
class ByType {
 public:
  explicit ByType(uint64_t general) : general_(general) {}
  void set_general(uint64_t value) { general_ = value; }
  void set(std::string_view type, uint64_t value);
  uint64_t get(std::string_view type) const;

 private:
  uint64_t general_;
  std::map<std::string, uint64_t> types_;  // by name in lower case
};

// What is done with a job whose slice cannot be set up.
enum class OnFailure { kCancel, kDrain };

// What the agent does about a verdict: say so; also kill; or also cancel the job.
enum class Answer { kReport, kKill, kCancel };

struct SiteConfig {
  ByType shards{kDefaultShards};
  bool shards_set = false;  // NUM_SHARDS_PER_GPU without a type is there
  ByType reserve{0};        // bytes of each GPU that belong to no slice
  bool limit_compute = true;
  OnFailure on_failure = OnFailure::kCancel;
  Answer answer[policy::kVerdictKinds] = {};
  bool answer_set[policy::kVerdictKinds] = {};  // by a line of its own
  policy::Tolerance tolerance;
  std::string metrics_address = "127.0.0.1:9799";  // empty: no metrics
  std::vector<std::string> job_lines;              // "KEY=VALUE" that go into every job's config
};

// A line that is wrong: "softmig.conf:3: NUM_SHARDS_PER_GPU: "0" is not ...".
struct SiteProblem {
  bool warning = false;  // else the file cannot be used
  std::string text;
};

struct SiteKey {
  const char* name;
  bool by_type;  // "KEY[type]" is a key as well
  const char* default_text;
  const char* format;  // completes "is not ..."
  const char* help;
};
const std::vector<SiteKey>& site_keys();

SiteConfig parse_site_config(std::string_view text, const std::string& path,
                             std::vector<SiteProblem>* problems);

// From the file; one that is not there is an empty one.
SiteConfig read_site_config(const std::string& path, std::vector<SiteProblem>* problems);

}  // namespace softmig::host
