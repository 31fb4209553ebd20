// What Slurm says about a job's GPUs: texts of scontrol and slurmd, of 22.05 and later, as values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace softmig::cli {

// One item of a node's gres detail, such as shard:l40s:2(IDX:0) or shard:l40s:2(2/4,0/4).
struct GresItem {
  std::string name;  // "gpu", "shard"
  std::string type;  // empty: none was given
  uint64_t count = 0;
  std::vector<int> index;  // places in slurmd's list of the node's GPUs
  // From 23.11 on, for each of `index`: how many of this job's are there, and how many there are.
  // Empty where Slurm does not tell (all are then on the one GPU in `index`).
  std::vector<uint64_t> here, available;
};

// n[1-3,07],m2 as names. Empty if it makes no sense, or would be more than `most` names.
std::vector<std::string> expand_hosts(std::string_view text, size_t most = 65536);

// The gres detail of one node, without what is counted as zero. Nothing if it cannot be read.
std::optional<std::vector<GresItem>> parse_gres(std::string_view detail);

// kForged: texts of the user (names, paths, comments may hold anything) look like parts of a
// record.
enum class RecordStatus { kOk, kNoJob, kNoNode, kBadGres, kForged };

// What the job has on this node, from the output of `scontrol -d -o show job`: one record, or those
// of all tasks of an array or parts of a heterogeneous job where this is their first. A user can
// add what looks like details of a node and cannot remove the real ones: so all that are there for
// this node must say the same.
RecordStatus find_gres(std::string_view records, uint64_t job_id, std::string_view node,
                       std::vector<GresItem>* items);

// By what name to ask for this record alone where the job's id got several: "16_3" for a task of an
// array, "5+0" for a part of a heterogeneous job. Empty if none is told.
std::string single_name(std::string_view records, uint64_t job_id);

// A job's request as squeue prints it with kRequestFormat: columns of fixed width, the user's texts
// last, so that nothing can be forged in front of them.
struct JobRequest {
  uint64_t job_id = 0, array_id = 0;
  uint32_t uid = 0;
  uint64_t restarts = 0;
  std::string tres;  // the four columns of requested TRES, without blanks at their ends
};
inline constexpr const char* kRequestFormat =
    "JobID:16,ArrayJobID:16,UserID:16,RestartCnt:16,tres-per-node:64,tres-per-job:64,"
    "tres-per-task:64,tres-per-socket:64";

// All rows; none if any makes no sense, or if a job seems to have two.
std::vector<JobRequest> parse_requests(std::string_view output);

// The job's items as far as they follow from its request alone: one GPU, whose index the prolog
// knows, and one type of shards, or no shards at all. `gpus` is SLURM_JOB_GPUS. Nothing if the
// job's record must be asked for.
std::optional<std::vector<GresItem>> items_of_request(const JobRequest& request,
                                                      std::string_view gpus);

// The device numbers (the digits that end File=) of a node's GPUs in the order of slurmd's list,
// which is what an index means, from the output of `slurmd -G`. Slurm sorts that list by type.
// Empty if there are none.
std::vector<int> parse_slurmd_gres(std::string_view output);

}  // namespace softmig::cli
