#include "sys/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/files.h"
#include "sys/self.h"

namespace softmig::sys {
namespace {

constexpr int kWipeOnFork = 18;  // MADV_WIPEONFORK, Linux 4.14
constexpr size_t kMarkBytes = 4096;

constinit ForkMark g_fork_mark{1, 0};  // where the kernel cannot wipe pages

void wipe_fork_mark() {
  g_fork_mark.taken.store(0);
  g_fork_mark.here.store(0);
}

// Weak: a C library that has none (musl) would refuse to load us.
extern "C" [[gnu::weak]] int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(),
                                               void* dso);

}  // namespace

void* map_pages(size_t bytes) {
  const ErrnoGuard keep_errno;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}

void unmap_pages(void* pages, size_t bytes) {
  const ErrnoGuard keep_errno;
  if (pages != nullptr) munmap(pages, bytes);
}

void* map_shared(int fd, size_t bytes) {
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return map != MAP_FAILED ? map : nullptr;
}

// The kernel adds 0 to the word, atomically, and says EFAULT where a program would get a signal.
bool is_backed(const void* word) {
  const ErrnoGuard keep_errno;
  const long nobody_to_wake = 0;
  return syscall(SYS_futex, word, FUTEX_WAKE_OP, 0, nobody_to_wake, word,
                 FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)) >= 0 ||
         errno != EFAULT;
}

const uint8_t* map_file(const char* path, size_t* size) {
  const int fd = open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
  if (fd < 0) return nullptr;
  FileStatus status;
  void* map = MAP_FAILED;
  if (status_of_fd(fd, &status) && status.is_regular() && status.size > 0) {
    map = mmap(nullptr, status.size, PROT_READ, MAP_PRIVATE, fd, 0);
  }
  close_file(fd);
  if (map == MAP_FAILED) return nullptr;
  *size = status.size;
  return static_cast<const uint8_t*>(map);
}

ForkMark* make_fork_mark() {
  void* page = map_pages(kMarkBytes);
  if (page == nullptr || madvise(page, kMarkBytes, kWipeOnFork) != 0) {
    unmap_pages(page, kMarkBytes);
    if (__register_atfork != nullptr) {
      __register_atfork(nullptr, nullptr, wipe_fork_mark, nullptr);
    }
    return &g_fork_mark;
  }
  auto* mark = static_cast<ForkMark*>(page);  // zeroes: two words that were never written
  mark->here.store(1);
  return mark;
}

}  // namespace softmig::sys
