#include "sys/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace softmig::sys {
namespace {

static_assert(kCurrentDirectory == AT_FDCWD);

uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

bool take(long result, const struct stat& from, FileStatus* status) {
  if (result != 0) return false;
  status->device = from.st_dev;
  status->inode = from.st_ino;
  status->size = static_cast<uint64_t>(from.st_size);
  status->mtime_ns = nanoseconds(from.st_mtim);
  status->ctime_ns = nanoseconds(from.st_ctim);
  status->mode = from.st_mode;
  status->uid = from.st_uid;
  status->gid = from.st_gid;
  status->links = from.st_nlink;
  return true;
}

struct DirectoryEntry {  // linux_dirent64
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[1];
};

}  // namespace

bool FileStatus::is_regular() const { return S_ISREG(mode); }

bool status_of_fd(int fd, FileStatus* status) {
  struct stat raw = {};
  return take(syscall(SYS_fstat, fd, &raw), raw, status);
}

bool status_of_path(const char* path, FileStatus* status) {
  struct stat raw = {};
  return take(syscall(SYS_newfstatat, AT_FDCWD, path, &raw, 0), raw, status);
}

bool status_at(int directory, const char* name, FileStatus* status) {
  struct stat raw = {};
  return take(syscall(SYS_newfstatat, directory, name, &raw, AT_SYMLINK_NOFOLLOW), raw, status);
}

bool exists(const char* path) {
  FileStatus status;
  return status_of_path(path, &status);
}

int open_file(const char* path, int flags, uint32_t mode) {
  return open_at(AT_FDCWD, path, flags, mode);
}

int open_at(int directory, const char* name, int flags, uint32_t mode) {
  long fd;
  do {
    fd = syscall(SYS_openat, directory, name, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return static_cast<int>(fd);
}

int open_to_read(int directory, const char* name) {
  return open_at(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
}

int open_directory(const char* path) {
  constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW;
  const int fd = open_file(path, O_RDONLY | kFlags, 0);
  return fd < 0 && errno == EACCES ? open_file(path, O_PATH | kFlags, 0) : fd;
}

// Never repeated after EINTR: Linux has closed the descriptor by then.
void close_file(int fd) { syscall(SYS_close, fd); }

long read_some(int fd, char* buffer, size_t size) {
  size_t length = 0;
  while (length < size) {
    const long got = syscall(SYS_read, fd, buffer + length, size - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  return static_cast<long>(length);
}

long read_small(const char* path, char* buffer, size_t size) {
  const int fd = open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
  if (fd < 0) return -errno;
  const long length = read_some(fd, buffer, size);
  close_file(fd);
  return length;
}

long read_link(const char* path, char* buffer, size_t size) {
  const long length = syscall(SYS_readlinkat, AT_FDCWD, path, buffer, size);
  return length < 0 ? -errno : length;
}

// Moves what is left to the front and reads more behind it. False if nothing could be added.
bool LineReader::fill() {
  memmove(buffer_, buffer_ + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  const long got = read_some(fd_, buffer_ + end_, kMaxLine - end_);
  if (got < 0) error_ = static_cast<int>(-got);
  if (got <= 0) return false;
  end_ += static_cast<size_t>(got);
  return true;
}

bool LineReader::next(std::string_view* line) {
  bool skipping = cut_;
  cut_ = false;
  for (;;) {
    const char* from = buffer_ + begin_;
    const auto* newline = static_cast<const char*>(memchr(from, '\n', end_ - begin_));
    if (newline != nullptr) {
      *line = {from, static_cast<size_t>(newline - from)};
      begin_ += line->size() + 1;
      if (!skipping) return true;
      skipping = false;
      continue;
    }
    if (end_ - begin_ == kMaxLine || skipping) {
      *line = {from, end_ - begin_};
      begin_ = end_ = 0;
      if (!skipping) return cut_ = true;
    }
    if (at_end_ || !fill()) {
      at_end_ = true;
      if (begin_ == end_ || error_ != 0 || skipping) return false;
      *line = {buffer_ + begin_, end_ - begin_};
      begin_ = end_;
      return true;
    }
  }
}

const char* DirectoryReader::next() {
  for (;;) {
    if (at_ >= size_) {
      size_ = syscall(SYS_getdents64, fd_, buffer_, sizeof buffer_);
      at_ = 0;
      if (size_ <= 0) return nullptr;
    }
    const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer_ + at_);
    at_ += entry->size;
    const std::string_view name = entry->name;
    if (name != "." && name != "..") return entry->name;
  }
}

}  // namespace softmig::sys
