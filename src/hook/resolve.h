// Finding functions without dlsym: while we export dlsym, a look-up of our own would find
// ourselves.
#pragma once

#include "hook/hook.h"

namespace softmig::hook {

// Fills in the driver's function behind every hook of the library that has none yet, in one walk of
// the loaded objects.
void resolve_hooks(Library library);
// How many objects were ever loaded: what was not found does not come before this has changed. 0:
// cannot be told.
uint64_t loads_so_far();

// The system's own functions; null where the process has none (no libdl before glibc 2.34).
void* system_dlsym();
void* system_dlvsym();
void* system_dlopen();

}  // namespace softmig::hook
