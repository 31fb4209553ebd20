// Anonymous pages straight from the kernel: the library never calls the program's malloc.
#pragma once

#include <atomic>
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

// Whether a word of a shared mapping can be written: on a full disk the first touch of a page that
// has no block yet raises SIGBUS. If true the page has its block. The word stays as it is, also
// where others change it at this moment. Aligned to 4 bytes. errno is unchanged.
bool is_backed(const void* word);

// Two words that both read 0 in every fork child from its first instruction on. Here, `here` is 1
// from the making on; `taken` is 0, for the thread of a child that sees to the rest. Never null.
struct ForkMark {
  std::atomic<uint32_t> here, taken;
};
ForkMark* make_fork_mark();

}  // namespace softmig::sys
