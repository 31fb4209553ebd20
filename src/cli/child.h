// Runs a helper program to its end and keeps what it prints.
#pragma once

#include <string>
#include <vector>

namespace softmig::cli {

struct ChildResult {
  bool started = false;
  bool timed_out = false;  // it was killed
  int status = -1;         // exit status, or 128 + signal
  std::string out, err;    // at most 16 MiB each
};

// `command[0]` is looked up in PATH. Standard input is empty.
ChildResult run_child(const std::vector<std::string>& command, double timeout_s);

}  // namespace softmig::cli
