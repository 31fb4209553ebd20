#include "sys/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/text.h"
#include "sys/files.h"

namespace softmig::sys {
namespace {

int write_all(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const long done = syscall(SYS_write, fd, bytes, size);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : EIO;
    bytes += done;
    size -= static_cast<size_t>(done);
  }
  return 0;
}

int move_file(const char* from, const char* to) {
#ifdef SYS_renameat
  const long result = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
#else
  const long result = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
#endif
  return result == 0 ? 0 : errno;
}

}  // namespace

int publish_file(const char* path, const void* bytes, size_t size, uint32_t mode) {
  char temporary[1024];
  base::Text name(temporary);
  name.add(path).add(".new.").add_number(static_cast<uint64_t>(pid()));
  if (name.overflowed()) return ENAMETOOLONG;
  syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
  const int fd = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  if (fd < 0) return errno;
  int error = write_all(fd, static_cast<const char*>(bytes), size);
  // The mode that was asked for, whatever the umask is.
  if (error == 0 && syscall(SYS_fchmod, fd, mode) != 0) error = errno;
  close_file(fd);
  if (error == 0) error = move_file(temporary, path);
  if (error != 0) syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
  return error;
}

int write_in_place(const char* path, const void* bytes, size_t size, uint64_t offset) {
  const int fd = open_file(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644);
  if (fd < 0) return errno;
  int error = lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0 ? errno : 0;
  if (error == 0) error = write_all(fd, static_cast<const char*>(bytes), size);
  close_file(fd);
  return error;
}

int open_untrusted(const char* path) {
  return open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
}

bool read_exactly(int fd, void* bytes, size_t size, uint64_t offset) {
  auto* to = static_cast<char*>(bytes);
  while (size > 0) {
    const ssize_t got = pread(fd, to, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return true;
}

}  // namespace softmig::sys
