#include "sys/memory.h"

#include <sys/mman.h>

#include "sys/self.h"

namespace softmig::sys {

void* map_pages(size_t bytes) {
  const ErrnoGuard keep_errno;
  void* pages =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}

void unmap_pages(void* pages, size_t bytes) {
  const ErrnoGuard keep_errno;
  if (pages != nullptr) munmap(pages, bytes);
}

}  // namespace softmig::sys
