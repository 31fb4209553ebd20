#include "sys/make_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace softmig::sys {
namespace {

int open_with(const char* path, int flags, uint32_t mode) {
  constexpr int kAlways = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags | kAlways, mode));
}

int error_of(long result) { return result == 0 ? 0 : errno; }

}  // namespace

// The mode that was asked for, whatever the umask is: others open the file by its name.
int create_file(const char* path, uint32_t mode) {
  const int fd = open_with(path, O_CREAT | O_EXCL, mode);
  if (fd >= 0) syscall(SYS_fchmod, fd, mode);
  return fd;
}
int open_to_write(const char* path) { return open_with(path, 0, 0); }

int make_sparse(int fd, size_t bytes, size_t reserved) {
  // Past `ulimit -f` the kernel would not refuse but send SIGXFSZ.
  rlimit most;
  if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur < bytes) return EFBIG;
  if (syscall(SYS_ftruncate, fd, bytes) != 0) return errno;
  const int error = error_of(syscall(SYS_fallocate, fd, 0, 0L, reserved));
  return error == EOPNOTSUPP || error == ENOSYS ? 0 : error;
}

int change_owner(int fd, uint32_t uid, uint32_t gid) {
  return error_of(syscall(SYS_fchown, fd, uid, gid));
}

int rename_to_new(const char* from, const char* to) {
  constexpr unsigned int kNoReplace = 1;  // RENAME_NOREPLACE, newer than the oldest headers
  const int error = error_of(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, kNoReplace));
  if (error != EINVAL && error != ENOSYS) return error;
  if (const int refused = error_of(syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)))
    return refused;
  return remove_file(from);
}

int remove_file(const char* path) { return error_of(syscall(SYS_unlinkat, AT_FDCWD, path, 0)); }

}  // namespace softmig::sys
