// Files by raw system calls that every kernel since 3.10 has, on x86-64 and aarch64: fstat and
// friends of the C library are newer than the symbol floor of the preload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sys/self.h"

namespace softmig::sys {

struct FileStatus {
  uint64_t device = 0, inode = 0;
  uint64_t size = 0;
  uint64_t mtime_ns = 0, ctime_ns = 0;
  uint32_t mode = 0;  // type and permissions, as st_mode
  uint32_t uid = 0, gid = 0;
  uint64_t links = 0;

  bool is_regular() const;
  uint32_t permissions() const { return mode & 07777; }
};

inline constexpr int kCurrentDirectory = -100;  // AT_FDCWD

// All set errno when they fail.
bool status_of_fd(int fd, FileStatus* status);
// Of what the path leads to, links followed.
bool status_of_path(const char* path, FileStatus* status);
// Of the name itself: a symbolic link is not followed.
bool status_at(int directory, const char* name, FileStatus* status);
bool exists(const char* path);

// Descriptor or -1. O_CLOEXEC is always added.
int open_file(const char* path, int flags, uint32_t mode);
int open_at(int directory, const char* name, int flags, uint32_t mode);
void close_file(int fd);
// For reading what somebody else may have planted: no final link is followed, nothing blocks.
int open_to_read(int directory, const char* name);
// A directory that is not a link. Where it may not be listed it still serves to open names in it.
int open_directory(const char* path);

// Up to `size` bytes from the beginning of a file that need not be regular (/proc). Number of
// bytes, 0 for an empty file, or a negative errno. Never blocks on a FIFO. Interrupted reads go on.
long read_small(const char* path, char* buffer, size_t size);
// As above, from where the descriptor stands.
long read_some(int fd, char* buffer, size_t size);
// Target of a symbolic link without a final NUL; its length or a negative errno.
long read_link(const char* path, char* buffer, size_t size);

// Lines of a descriptor one at a time, in a buffer of its own: files of any size need no memory.
class LineReader {
 public:
  static constexpr size_t kMaxLine = 2048;

  explicit LineReader(int fd) : fd_(fd) {}
  // The next line without its newline, valid until the next call. False at the end or on an error.
  bool next(std::string_view* line);
  // The line just given was longer than kMaxLine bytes: its rest was skipped.
  bool cut() const { return cut_; }
  int error() const { return error_; }  // errno of a failed read, 0 at a proper end

 private:
  bool fill();

  int fd_;
  int error_ = 0;
  bool cut_ = false, at_end_ = false;
  size_t begin_ = 0, end_ = 0;
  char buffer_[kMaxLine];
};

// Names in a directory, "." and ".." left out.
class DirectoryReader {
 public:
  explicit DirectoryReader(int fd) : fd_(fd) {}
  // Null at the end or on an error. Valid until the next call.
  const char* next();
  bool failed() const { return size_ < 0; }

 private:
  int fd_;
  long size_ = 0, at_ = 0;
  alignas(8) char buffer_[2048];
};

}  // namespace softmig::sys
