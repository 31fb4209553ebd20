// Between the search and what stands in for the operating system.
#pragma once

#include <string>

#include "world.h"

namespace softmig::model {

inline constexpr uint64_t kStart = 100;  // start time of every process

Process& current();      // the process that runs
uint64_t limit_units();  // of the scenario
// Ends the search with this text.
void fail(const std::string& text);

}  // namespace softmig::model
