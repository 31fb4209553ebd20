// Anonymous pages straight from the kernel: the library never calls the program's malloc.
#pragma once

#include <cstddef>

namespace softmig::sys {

// Zeroed memory of at least `bytes`, page aligned; null if there is none. errno is unchanged.
void* map_pages(size_t bytes);
// Gives back what map_pages(bytes) returned. A null pointer is fine. errno is unchanged.
void unmap_pages(void* pages, size_t bytes);

}  // namespace softmig::sys
