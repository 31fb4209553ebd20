// All hooks, as the linker laid them down.
#pragma once

#include "hook/hook.h"

namespace softmig::hook {

const Entry* begin();
const Entry* end();

// The hook of this exact name; null if there is none.
const Entry* find(const char* name);
// The hook that stands before this address of libcuda; null if there is none.
const Entry* find_by_driver_address(void* address);
// The hook that a cuGetProcAddress(name, version, flags) must give, from the table alone: the
// newest spelling not newer than `version`, its per-thread-stream form if the flags ask for that.
const Entry* find_for_version(const char* name, int version, uint64_t flags);

}  // namespace softmig::hook
