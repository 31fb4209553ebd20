// What happens when something is wrong: one table for the code and for docs/configuration.md.
#pragma once

#include <iterator>

namespace softmig::policy {

enum class Situation {
  kNoConfig,
  kUnusableAtStart,
  kBadEnvironment,
  kUnknownKey,
  kBadRewrite,
  kDeleted,
  kHiddenJob,
  kRegionUnmappable,
  kRegionFull,
};

enum class Outcome {
  kPassive,        // the driver's own functions and answers
  kClosed,         // allocations fail with CUDA_ERROR_OUT_OF_MEMORY
  kIgnored,        // as if the line were not there
  kKeepLast,       // the limits that hold go on
  kSmallest,       // the smallest limits of all jobs of this user on this node
  kWithinProcess,  // the limit holds for each process by itself
};

struct Failure {
  Situation situation;
  Outcome outcome;
  const char* what;  // for people
  const char* answer;
};

inline constexpr Failure kFailures[] = {
    {Situation::kNoConfig, Outcome::kPassive, "no config, and no limit in the environment",
     "passive until the next exec: the driver's own functions and answers"},
    {Situation::kUnusableAtStart, Outcome::kClosed,
     "a config is there when the process starts and cannot be used: wrong owner or permissions, a "
     "link, not a regular file, too large, empty, a line that is not KEY=VALUE, a bad value",
     "closed: every allocation fails with CUDA_ERROR_OUT_OF_MEMORY, the log names file, line, key "
     "and text; a repaired file is noticed within a second"},
    {Situation::kBadEnvironment, Outcome::kClosed, "no config, and a bad limit in the environment",
     "closed, the log names variable and text"},
    {Situation::kUnknownKey, Outcome::kIgnored, "a key in a config that this version does not know",
     "ignored, with a line in the log that names file, line and key"},
    {Situation::kBadRewrite, Outcome::kKeepLast, "a config becomes unusable while processes live",
     "they keep their last good limits, with a line in the log"},
    {Situation::kDeleted, Outcome::kKeepLast, "a config is deleted while processes live",
     "they keep their limits"},
    {Situation::kHiddenJob, Outcome::kSmallest,
     "the process is in another cgroup namespace than slurmd, so that its path names no job",
     "the smallest limits of all jobs of this user on this node, with a line in the log"},
    {Situation::kRegionUnmappable, Outcome::kWithinProcess,
     "the job's shared region cannot be mapped",
     "the limits hold within each process by itself, with a line in the log"},
    {Situation::kRegionFull, Outcome::kClosed,
     "the job's shared region names 16 other GPUs, and the one asked for has a limit",
     "closed on that GPU: every allocation fails with CUDA_ERROR_OUT_OF_MEMORY, nothing is shown "
     "as "
     "free, with a line in the log"},
};

constexpr Outcome outcome_of(Situation situation) {
  return kFailures[static_cast<int>(situation)].outcome;
}

constexpr bool failures_are_in_order() {
  for (int i = 0; i < static_cast<int>(std::size(kFailures)); i++) {
    if (static_cast<int>(kFailures[i].situation) != i) return false;
  }
  return true;
}
static_assert(failures_are_in_order(), "one row for each situation, in the order of the enum");

}  // namespace softmig::policy
