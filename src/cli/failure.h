// How a subcommand gives up: a text for the user, perhaps a way out, and an exit status.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "host/text.h"

namespace softmig::cli {

// Exit statuses of all subcommands but `run`, which keeps to those of env and timeout.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;  // the command could not do its work
inline constexpr int kExitUsage = 2;    // the command line makes no sense

class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& what, std::string hint = {}, int status = kExitFailure)
      : std::runtime_error(what), hint_(std::move(hint)), status_(status) {}

  const std::string& hint() const { return hint_; }  // what to do about it; may be empty
  int status() const { return status_; }

 private:
  std::string hint_;
  int status_;
};

using host::with_errno;

}  // namespace softmig::cli
