// How much device memory the globals of a code image take, read from the image before it is loaded.
#pragma once

#include <cstdint>
#include <span>

namespace softmig::policy {

// Bytes of the `__device__` variables in an image: a cubin (ELF), PTX text, or a fat binary or its
// wrapper (the largest of its parts counts, since one of them will be chosen). 0 if it has none or
// cannot be read here (compressed parts). Reads nothing outside of `image`.
uint64_t globals_in(std::span<const uint8_t> image);

// Size of an image of which only the address is known, from its own header. 0: not an image.
uint64_t image_size(const void* image);

// The fat binary that a wrapper (as compilers put it into programs) points to; else `image` itself.
const void* unwrap(const void* image);

}  // namespace softmig::policy
