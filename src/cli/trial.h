// Programs run to see whether a library that is about to be loaded into all of them does any harm.
#pragma once

#include <string>
#include <vector>

namespace softmig::cli {

struct Trial {
  std::vector<std::string> command;
  unsigned uid = 0;
  std::string preload = {};       // LD_PRELOAD of the program; empty: none
  std::string preload_file = {};  // bound over /etc/ld.so.preload, where this program alone sees it
  int status = 0;                 // what it must end with
  bool prints = false;            // it may print what it likes, but for messages of the loader
};

// Empty if the program ended as it should and printed nothing, else what was wrong. "skipped: ..."
// where private mounts are not allowed.
std::string try_out(const Trial& trial);

}  // namespace softmig::cli
