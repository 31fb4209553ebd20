// Finding functions without dlsym: while we export dlsym, a look-up of our own would find
// ourselves.
#pragma once

namespace softmig::hook {

// The system's own functions; null where the process has none (no libdl before glibc 2.34).
void* system_dlsym();
void* system_dlvsym();
void* system_dlopen();

}  // namespace softmig::hook
