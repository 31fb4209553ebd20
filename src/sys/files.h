// Files, by system calls that every glibc since 2.17 can be linked with. errno is as after the call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softmig::sys {

struct FileStatus {
  uint64_t device = 0, inode = 0, size = 0, links = 0;
  uint64_t mtime_ns = 0, ctime_ns = 0;
  uint32_t mode = 0, uid = 0, gid = 0;
  bool is_regular() const { return (mode & 0170000) == 0100000; }
  bool is_directory() const { return (mode & 0170000) == 0040000; }
};

bool status_of_fd(int fd, FileStatus* status);
bool status_of_path(const char* path, FileStatus* status);          // follows links
bool status_of_link(const char* path, FileStatus* status);          // does not
bool exists(const char* path);

// Descriptor or -1.
int open_file(const char* path, int flags, unsigned int mode);
// Up to `capacity` bytes of a file; their number or -1.
long read_small(const char* path, char* buffer, size_t capacity);

// A read-only mapping of a whole file; null if that cannot be had. To be given to unmap_pages.
const uint8_t* map_file(const char* path, size_t* size);

}  // namespace softmig::sys
