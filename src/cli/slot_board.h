// The files in which the jobs on this node's GPUs say whether they fill their slots (job/board.h),
// in /var/run/softmig/board. Root's folder; each job owns the files of its slots while it runs.
#pragma once

#include <string>
#include <vector>

#include "cli/node_state.h"

namespace softmig::cli {

class SlotBoard {
 public:
  explicit SlotBoard(std::string folder) : folder_(std::move(folder)) {}

  const std::string& folder() const { return folder_; }
  // Makes the files of these slots, empty, and the user's. Throws Failure.
  void give(const std::vector<SlotClaim>& claims, uint32_t uid, uint32_t gid) const;
  void take_back(const std::vector<SlotClaim>& claims) const;

 private:
  std::vector<std::string> files_of(const std::vector<SlotClaim>& claims) const;

  std::string folder_;
};

}  // namespace softmig::cli
