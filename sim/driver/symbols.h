// Every function that some version of the driver exports, from symbols/cuda.def.
#pragma once

#include <span>

namespace softmig::sim {

struct Symbol {
  const char* name;
  int since;  // CUDA version, e.g. 11040
  void (*address)();
};

std::span<const Symbol> all_symbols();

}  // namespace softmig::sim
