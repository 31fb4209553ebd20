// What the agent says: to the journal (or standard error) and to syslog.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>

namespace softmig::agent {

enum class Weight { kError = 3, kWarning = 4, kNotice = 5 };  // as syslog numbers them

void say(Weight weight, const std::string& text);

}  // namespace softmig::agent
