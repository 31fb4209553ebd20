#include "sys/env.h"

#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "sys/self.h"

extern "C" char** environ;

namespace softmig::sys {

bool is_secure() {
  const ErrnoGuard keep_errno;
  return getauxval(AT_SECURE) != 0;
}

const char* const* environment() { return is_secure() ? nullptr : environ; }

const char* variable(const char* name) {
  const char* const* entry = environment();
  if (entry == nullptr) return nullptr;
  const size_t length = strlen(name);
  for (; *entry != nullptr; entry++) {
    if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

}  // namespace softmig::sys
