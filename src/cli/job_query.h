// Asking Slurm's controller what a job has on this node: once for a job, and where many tasks of an
// array start together, once for several.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/job_gres.h"
#include "cli/node_state.h"

namespace softmig::cli {

// A job as its prolog knows it, from slurmd.
struct PrologJob {
  uint64_t id = 0;
  uint32_t uid = 0, gid = 0;
  uint64_t restarts = 0;
  std::string node;
  std::string gpus;  // SLURM_JOB_GPUS: indices of the job's GPUs
};

// The job's items as far as they follow from what it asked for (see items_of_request). Nothing
// where its record must be asked for. What squeue says of several jobs of a user is kept in
// {folder}/requests and holds for others of them, as long as uid and number of restarts are theirs:
// what a job asked for cannot be changed while it runs. Throws Failure if the controller hangs.
std::optional<std::vector<GresItem>> items_by_request(const NodeState& state, const PrologJob& job);

// The job's items as its record tells. Throws Failure with what is wrong.
std::vector<GresItem> items_by_record(const PrologJob& job);

// The lines of {folder}/requests.
std::vector<JobRequest> parse_requests_text(std::string_view text);

}  // namespace softmig::cli
