// The private folder of one `softmig run`: its region, extra page and simulated state. It stands
// for a slice that lives as long as one of its processes.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace softmig::cli {

inline constexpr std::string_view kSliceDirPrefix = "softmig-run.";

// The folder in which all slices of this user say who fills which slot of a GPU (job/board.h), made
// if it is not there. Empty if there is none that nobody else can write to.
std::string board_folder();

class SliceDir {
 public:
  // Makes a folder of mode 0700 in $SLURM_TMPDIR, /tmp or $XDG_RUNTIME_DIR (the first that can be
  // written) and locks it, so that others see that its `run` lives. Throws Failure.
  SliceDir();
  // Removes it, unless processes of the slice are left: a later sweep does it then.
  ~SliceDir();
  SliceDir(const SliceDir&) = delete;
  SliceDir& operator=(const SliceDir&) = delete;

  const std::string& path() const { return path_; }
  std::string region() const { return path_ + "/region"; }
  std::string simulated_state() const { return path_ + "/sim"; }
  // Processes other than this one that carry the folder's name in their environment.
  std::vector<pid_t> users() const;

 private:
  std::string path_;
  int lock_ = -1;
};

// Removes the folders that earlier runs of this user could not remove because they were killed: not
// locked, a second old, and named in no living process's environment. Returns how many.
int sweep_dead_slices();

// Whether that process's environment, as it was at its exec, holds `text`. False if it may not be
// read.
bool environment_holds(pid_t pid, std::string_view text);

}  // namespace softmig::cli
