#include "sys/proc.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "base/text.h"
#include "sys/files.h"

namespace softmig::sys {
namespace {

constexpr uint64_t kStartMask = 0xffffffffff;

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// Field `n` of /proc/<pid>/stat, counted from 3 (the state): fields 1 and 2 are the pid and the
// name, which may contain blanks and brackets.
std::string_view field(std::string_view after_name, int n) {
  for (int i = 3; i < n; i++) {
    const size_t blank = after_name.find(' ');
    if (blank == after_name.npos) return {};
    after_name.remove_prefix(blank + 1);
  }
  return after_name.substr(0, after_name.find(' '));
}

ProcessState parse_stat(std::string_view stat) {
  ProcessState state;
  const size_t bracket = stat.rfind(')');
  if (bracket == stat.npos || bracket + 2 >= stat.size()) return state;
  stat.remove_prefix(bracket + 2);
  const std::string_view letter = field(stat, 3);
  state.exists = true;
  // A leader that has left by pthread_exit is a zombie too, and its process lives.
  const bool last_thread = number(field(stat, 20)) <= 1;
  state.dead = (letter == "Z" || letter == "X") && last_thread;
  state.start_ticks = number(field(stat, 22));
  return state;
}

}  // namespace

int pid() { return static_cast<int>(syscall(SYS_getpid)); }
uint32_t effective_uid() { return geteuid(); }
void yield() { sched_yield(); }

ProcessState process_state(const char* proc_root, uint32_t pid) {
  char path[256], stat[1024];
  base::Text text(path);
  text.add(proc_root).add("/").add_number(pid).add("/stat");
  const long size = read_small(path, stat, sizeof stat);
  if (size <= 0) return {};
  return parse_stat({stat, static_cast<size_t>(size)});
}

bool is_gone(const char* proc_root, uint32_t pid, uint64_t start_ticks) {
  const ProcessState state = process_state(proc_root, pid);
  if (state.exists) return state.dead || (state.start_ticks & kStartMask) != start_ticks;
  // Not to be seen: hidden by hidepid, or gone. A signal that is never sent tells.
  const int saved = errno;
  const bool gone = syscall(SYS_kill, pid, 0) != 0 && errno == ESRCH;
  errno = saved;
  return gone;
}

uint64_t own_start_ticks() {
  return process_state("/proc", static_cast<uint32_t>(pid())).start_ticks;
}

uint64_t pid_namespace() {
  FileStatus status;
  return status_of_path("/proc/self/ns/pid", &status) ? status.inode : 0;
}

}  // namespace softmig::sys
