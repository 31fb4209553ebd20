#include "state/liveness.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "state/state.h"

namespace softmig::sim {
namespace {

struct flock byte_lock(int64_t offset, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = offset;
  lock.l_len = 1;
  return lock;
}

bool read_stat(int pid, char (&text)[1024]) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n > 0 ? n : 0] = '\0';
  return n > 0;
}

}  // namespace

uint64_t process_start_time(int pid) {
  char text[1024];
  if (!read_stat(pid, text)) return 0;
  const char* at = std::strrchr(text, ')');  // the name may hold anything, blanks and brackets too
  if (at == nullptr || at[1] == '\0' || at[2] == 'Z' || at[2] == 'X') return 0;
  for (int field = 2; field < 22 && at != nullptr; ++field) at = std::strchr(at + 1, ' ');
  return at != nullptr ? std::strtoull(at + 1, nullptr, 10) : 0;
}

uint64_t own_pid_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

int open_state_again(const State& state) {
  const int fd = open(state.path().c_str(), O_RDWR | O_CLOEXEC);
  struct stat info {};
  if (fd >= 0 && fstat(fd, &info) == 0 && info.st_dev == state.device_ &&
      info.st_ino == state.inode_)
    return fd;
  if (fd >= 0) close(fd);
  return -1;
}

bool is_locked(int fd, int64_t offset) {
  struct flock lock = byte_lock(offset, F_WRLCK);
  return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool is_alive(int fd, const ProcessRow& row, uint32_t index, State::Care care) {
  if (fd >= 0 && !is_locked(fd, kImageLocks + index)) return false;
  static const uint64_t here = own_pid_namespace();
  if (row.pid_namespace != here) return true;
  if (fd >= 0 && care == State::Care::kQuick) return kill(row.pid, 0) == 0 || errno != ESRCH;
  return process_start_time(row.pid) == row.start_time;
}

bool hold_image_lock(const State& state, uint32_t index) {
  const int fd = open_state_again(state);
  if (fd < 0) return false;
  struct flock lock = byte_lock(kImageLocks + index, F_WRLCK);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* at = MAP_FAILED;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
    at = mmap(nullptr, page, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED && madvise(at, page, MADV_DONTFORK) != 0) {
      munmap(at, page);
      at = MAP_FAILED;
    }
  }
  close(fd);
  return at != MAP_FAILED;
}

}  // namespace softmig::sim
