// The process's environment and privileges.
#pragma once

namespace softmig::sys {

// Value of a variable, null if it is not set, and always null in processes that gained privileges by
// being started (AT_SECURE): there the environment is the caller's, not the owner's.
const char* variable(const char* name);
bool is_secure();

}  // namespace softmig::sys
