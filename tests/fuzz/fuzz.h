// What the fuzzers share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace softmig::fuzz {

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A broken promise is a finding, as a crash is.
inline void must(bool promise) {
  if (!promise) abort();
}

inline bool is_plain(std::string_view text) {
  for (const char byte : text) {
    if (byte < ' ' || byte > '~') return false;
  }
  return true;
}

}  // namespace softmig::fuzz
