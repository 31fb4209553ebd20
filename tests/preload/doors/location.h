// Where an address lies, in words that are the same in every run: "libcuda.so.1+1a2b0".
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace softmig::preload_test {

inline std::string location(const void* address) {
  if (address == nullptr) return "-";
  Dl_info info;
  if (dladdr(address, &info) == 0) return "?";
  const char* slash = strrchr(info.dli_fname, '/');
  char offset[32];
  snprintf(offset, sizeof offset, "+%zx",
           reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(info.dli_fbase));
  return std::string(slash != nullptr ? slash + 1 : info.dli_fname) + offset;
}

}  // namespace softmig::preload_test
