// Anonymous pages straight from the kernel: the library never calls the program's malloc.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softmig::sys {

// Zeroed memory of at least `bytes`, page aligned; null if there is none. errno is unchanged.
void* map_pages(size_t bytes);
// Gives back what map_pages(bytes) returned. A null pointer is fine. errno is unchanged.
void unmap_pages(void* pages, size_t bytes);

// The whole of a regular file, to be read; null if it is empty or cannot be had. Its size goes to
// *size, unmap_pages takes it back.
const uint8_t* map_file(const char* path, size_t* size);

// `bytes` of an open file, shared with every process that maps it; null if that fails.
void* map_shared(int fd, size_t bytes);

// A word that reads 0 in every fork child from its first instruction on, and 1 here. Never null.
volatile uint32_t* make_fork_mark();

}  // namespace softmig::sys
