// Pages of our own: the program's allocator is not ours to call.
#pragma once

#include <cstddef>

namespace softmig::sys {

// Zeroed pages; null if there are none to be had.
void* map_pages(size_t bytes);
// Gives them back; null is fine.
void unmap_pages(void* pages, size_t bytes);

}  // namespace softmig::sys
