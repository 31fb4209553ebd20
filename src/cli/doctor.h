// What softmig doctor looks at, one function for each side of a node. None changes anything.
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

namespace softmig::cli {

enum class Level { kGood, kNote, kWarning, kBad };

struct Finding {
  Level level;
  std::string what;
  std::string advice = {};  // what to do
};
using Findings = std::vector<Finding>;

struct Node {
  std::string root;  // where the system lies; empty: here
  std::string slurm_conf;
  std::string at(const std::string& path) const { return root + path; }
};

Findings check_library(const Node& node);
Findings check_preload(const Node& node);
Findings check_folders(const Node& node);
Findings check_driver(const Node& node);
Findings check_nvidia_smi(const Node& node);
Findings check_slurm(const Node& node);
Findings check_shards(const Node& node);
Findings check_escapes(const Node& node);
Findings check_containers(const Node& node);
Findings check_agent(const Node& node);
Findings check_job(const Node& node);

// "644, owner 0"
std::string mode_text(const struct stat& status);

}  // namespace softmig::cli
