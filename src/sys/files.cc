#include "sys/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace softmig::sys {
namespace {

#if defined(SYS_newfstatat)
constexpr long kStatAt = SYS_newfstatat;
#else
constexpr long kStatAt = SYS_fstatat;
#endif

uint64_t nanoseconds(const timespec& t) {
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

void fill(const struct stat& from, FileStatus* to) {
  to->device = from.st_dev;
  to->inode = from.st_ino;
  to->size = static_cast<uint64_t>(from.st_size);
  to->links = from.st_nlink;
  to->mtime_ns = nanoseconds(from.st_mtim);
  to->ctime_ns = nanoseconds(from.st_ctim);
  to->mode = from.st_mode;
  to->uid = from.st_uid;
  to->gid = from.st_gid;
}

bool status_at(const char* path, int flags, FileStatus* status) {
  struct stat raw;
  if (syscall(kStatAt, AT_FDCWD, path, &raw, flags) != 0) return false;
  fill(raw, status);
  return true;
}

}  // namespace

bool status_of_fd(int fd, FileStatus* status) {
  struct stat raw;
  if (syscall(SYS_fstat, fd, &raw) != 0) return false;
  fill(raw, status);
  return true;
}

bool status_of_path(const char* path, FileStatus* status) { return status_at(path, 0, status); }
bool status_of_link(const char* path, FileStatus* status) {
  return status_at(path, AT_SYMLINK_NOFOLLOW, status);
}

bool exists(const char* path) {
  FileStatus status;
  return status_of_link(path, &status);
}

int open_file(const char* path, int flags, unsigned int mode) {
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

long read_small(const char* path, char* buffer, size_t capacity) {
  const int fd = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
  if (fd < 0) return -1;
  size_t done = 0;
  while (done < capacity) {
    const ssize_t got = read(fd, buffer + done, capacity - done);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  close(fd);
  return static_cast<long>(done);
}

const uint8_t* map_file(const char* path, size_t* size) {
  const int fd = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
  if (fd < 0) return nullptr;
  FileStatus status;
  void* map = MAP_FAILED;
  if (status_of_fd(fd, &status) && status.is_regular() && status.size > 0) {
    map = mmap(nullptr, status.size, PROT_READ, MAP_PRIVATE, fd, 0);
  }
  close(fd);
  if (map == MAP_FAILED) return nullptr;
  *size = status.size;
  return static_cast<const uint8_t*>(map);
}

}  // namespace softmig::sys
