// Making files: what a process needs to set up shared state, by raw system calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softmig::sys {

// Descriptor of a new file, or -1: never an existing one, never through a link.
int create_file(const char* path, uint32_t mode);
// Descriptor of an existing file for reading and writing, or -1: not through a link, never blocks.
int open_to_write(const char* path);
// All below return 0 or an errno.
// Gives the file its size; the first `reserved` bytes get blocks of their own where that can be
// done.
int make_sparse(int fd, size_t bytes, size_t reserved);
int change_owner(int fd, uint32_t uid, uint32_t gid);
// EEXIST if `to` is there. Atomic: nobody sees a file of two names, except on file systems that
// cannot rename without replacing (NFS).
int rename_to_new(const char* from, const char* to);
int remove_file(const char* path);

}  // namespace softmig::sys
