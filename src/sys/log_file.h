// Files and the console as a guest in somebody else's process writes them: nothing here blocks,
// raises a signal, follows a link, opens a device, or fails aloud. errno may change.
#pragma once

#include <cstdint>
#include <string_view>

namespace softmig::sys {

// Descriptor for appending to a regular file with one link, -1 if there is none and none can be
// made (mode 0644, whatever the umask). *size is its size in bytes.
int open_log_file(const char* path, uint64_t* size);

// Bytes that a file of this process may reach (RLIMIT_FSIZE): beyond it a write raises SIGXFSZ.
uint64_t file_size_limit();

// One write. False if nothing was written.
bool write_once(int fd, std::string_view bytes);

// One write to standard error, left out where it would block or raise SIGPIPE. At most PIPE_BUF
// bytes.
void write_to_console(std::string_view bytes);

}  // namespace softmig::sys
