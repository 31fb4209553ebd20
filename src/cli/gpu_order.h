// Slurm's order of a node's GPUs.
#pragma once

#include <string>
#include <vector>

#include "cli/node_state.h"

namespace softmig::cli {

// The device numbers (N of /dev/nvidiaN) of a node's GPUs in the order in which Slurm counts them:
// sorted by type, not by number. Asks `slurmd -G`, and keeps the answer in {folder}/gres until
// slurm.conf, gres.conf or a file that they include changes. Empty if slurmd does not tell.
std::vector<int> slurm_gpu_order(const NodeState& state, const std::string& node);

// The slurm.conf and gres.conf in force and the files that they include, each with what tells
// whether it was changed.
std::string slurm_config_stamp(const std::string& slurm_conf);

}  // namespace softmig::cli
