#include "sys/env.h"

#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

namespace softmig::sys {

bool is_secure() { return getauxval(AT_SECURE) != 0; }

const char* variable(const char* name) {
  if (environ == nullptr || is_secure()) return nullptr;
  const size_t length = strlen(name);
  for (char** entry = environ; *entry != nullptr; entry++) {
    if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

}  // namespace softmig::sys
