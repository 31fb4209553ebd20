// The GPUs of this node.
#pragma once

#include <string>
#include <vector>

#include "cli/job_plan.h"
#include "cli/node_state.h"

namespace softmig::cli {

// In the order of their minor numbers. Starting NVML takes from 20 ms to seconds, so that what it
// says is kept in {folder}/gpus for a minute, and thrown away as soon as the driver or its list of
// cards is another. Throws Failure with what is wrong.
std::vector<NodeGpu> node_gpus(const NodeState& state);

// What tells whether the node has the GPUs that it had: one line. `proc` is /proc but in tests.
std::string gpu_stamp(const std::string& proc);

std::string gpu_list_text(const std::string& stamp, const std::vector<NodeGpu>& gpus);
// Empty if the text is no such list, or one with another stamp.
std::vector<NodeGpu> parse_gpu_list(const std::string& text, const std::string& stamp);

}  // namespace softmig::cli
