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

enum class RecordStatus { kOk, kNoJob, kNoNode, kBadGres };

// Looks in the output of `scontrol -d -o show job` for the record with this very JobId (an array's
// id gets the records of all its tasks), and in it for this node.
RecordStatus find_gres(std::string_view records, uint64_t job_id, std::string_view node,
                       std::vector<GresItem>* items);

// The device numbers (the digits that end File=) of a node's GPUs in the order of slurmd's list,
// which is what an index means, from the output of `slurmd -G`. Slurm sorts that list by type.
// Empty if there are none.
std::vector<int> parse_slurmd_gres(std::string_view output);

}  // namespace softmig::cli
