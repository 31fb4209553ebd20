#include "sys/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/files.h"

namespace softmig::sys {
namespace {

constexpr int kFlags = O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
constexpr uint32_t kMode = 0644;
constexpr int kStandardError = 2;

// -1 with EEXIST if another process was faster.
int make_log_file(const char* path) {
  const int fd = open_file(path, kFlags | O_CREAT | O_EXCL, kMode);
  if (fd >= 0) syscall(SYS_fchmod, fd, kMode);
  return fd;
}

// Looks before it opens: opening a device or a FIFO can have effects.
int open_or_make(const char* path) {
  FileStatus status;
  if (!status_at(kCurrentDirectory, path, &status)) {
    if (errno != ENOENT) return -1;
    const int fd = make_log_file(path);
    if (fd >= 0 || errno != EEXIST) return fd;
  } else if (!status.is_regular()) {
    return -1;
  }
  return open_file(path, kFlags, 0);
}

}  // namespace

int open_log_file(const char* path, uint64_t* size) {
  const int fd = open_or_make(path);
  if (fd < 0) return -1;
  FileStatus status;
  if (status_of_fd(fd, &status) && status.is_regular() && status.links == 1) {
    *size = status.size;
    return fd;
  }
  close_file(fd);
  return -1;
}

uint64_t file_size_limit() {
  struct {
    uint64_t soft, hard;
  } limit = {};
  return syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, nullptr, &limit) == 0 ? limit.soft : 0;
}

bool write_once(int fd, std::string_view bytes) {
  return syscall(SYS_write, fd, bytes.data(), bytes.size()) > 0;
}

// A pipe that is ready takes PIPE_BUF bytes; one that nobody reads shows POLLERR.
void write_to_console(std::string_view bytes) {
  pollfd console = {.fd = kStandardError, .events = POLLOUT, .revents = 0};
  const timespec at_once = {};
  if (syscall(SYS_ppoll, &console, 1, &at_once, nullptr, 0) != 1) return;
  if (console.revents == POLLOUT) write_once(kStandardError, bytes);
}

}  // namespace softmig::sys
