// One number of several, for tables and for seeing that something changed. Order counts.
#pragma once

#include <cstdint>

namespace softmig::base {

// Mixes a value into a key; keys are never 0.
constexpr uint64_t mix(uint64_t key, uint64_t value) {
  key = (key ^ value) * 0x9e3779b97f4a7c15;
  return (key ^ key >> 29) | 1;
}

}  // namespace softmig::base
