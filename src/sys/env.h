// The environment, read from `environ` itself: programs like bash bring a getenv of their own.
#pragma once

namespace softmig::sys {

// The process runs with privileges that its caller does not have (AT_SECURE): setuid, capabilities.
bool is_secure();

// Value of a variable, null if it is not set. In an AT_SECURE process nothing is ever set.
const char* variable(const char* name);

// All "NAME=value" strings, ended by null; null itself if there are none or is_secure().
const char* const* environment();

}  // namespace softmig::sys
