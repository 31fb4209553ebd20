// What a module's image says of itself: the variables that need device memory, and the kernels.
// Understood are PTX text, cubin files (ELF), and fatbinaries that hold one of them uncompressed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "abi/cuda.h"

namespace softmig::sim {

struct Variable {
  std::string name;
  uint64_t bytes = 0;
  uint64_t alignment = 1;
  bool managed = false;
};

struct Entry {
  std::string name;
  unsigned int parameter_bytes = 0;  // of the first parameter; 0: none
  unsigned int parameter_count = 0;
};

struct Image {
  std::vector<Variable> variables;
  std::vector<Entry> entries;
  bool uses_heap = false;  // calls malloc on the device
  bool uses_printf = false;
};

// INVALID_IMAGE, INVALID_PTX or NO_BINARY_FOR_GPU where it is none of those.
CUresult read_image(const void* data, Image* image);

}  // namespace softmig::sim
