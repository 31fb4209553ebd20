// Small files that one process writes and others read at any time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softmig::sys {

// Makes `path` hold exactly these bytes: written to "<path>.new.<pid>" in the same folder, then
// renamed, so that a reader sees the old contents or the new, never a part. Returns 0 or an errno;
// after an error the old file is untouched and nothing is left behind.
int publish_file(const char* path, const void* bytes, size_t size, uint32_t mode);

// Writes over a file's bytes from `offset` on where they lie; it is made with mode 0644 if it is
// not there. For a few bytes that change often: readers of up to a word see the old one or the new.
// 0 or an errno.
int write_in_place(const char* path, const void* bytes, size_t size, uint64_t offset);

// Opens a file that somebody else may have planted, for reading: follows no final link and never
// blocks. Descriptor, or -1 with errno set.
int open_untrusted(const char* path);

// Exactly `size` bytes from `offset`. False if the file is shorter or cannot be read.
bool read_exactly(int fd, void* bytes, size_t size, uint64_t offset);

}  // namespace softmig::sys
