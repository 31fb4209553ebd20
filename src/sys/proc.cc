#include "sys/proc.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>

#include "abi/region.h"
#include "base/text.h"
#include "sys/files.h"

namespace softmig::sys {
namespace {

// Counted from the state, which is 0.
constexpr int kThreadsField = 17, kStartField = 19, kCodeField = 23, kStackField = 25;

std::string_view next_field(std::string_view* rest) {
  const size_t blank = rest->find(' ');
  const std::string_view field = base::head(*rest, blank);
  rest->remove_prefix(blank == std::string_view::npos ? rest->size() : blank + 1);
  return field;
}

bool to_number(std::string_view text, uint64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

// /proc is mounted for the pid namespace of this very process: its numbers are ours.
bool has_our_numbers(const char* proc_root) {
  char path[256], target[32];
  base::Text(path).add(proc_root).add("/self");
  const long length = read_link(path, target, sizeof target);
  uint64_t number = 0;
  return length > 0 && to_number({target, static_cast<size_t>(length)}, &number) &&
         number == static_cast<uint64_t>(pid());
}

bool read_stat(const char* path, ProcessState* state) {
  char line[1024];
  const long length = read_small(path, line, sizeof line);
  return length > 0 && parse_process_stat({line, static_cast<size_t>(length)}, state);
}

uint64_t inode_of(const char* path) {
  const ErrnoGuard keep_errno;
  FileStatus status;
  return status_of_path(path, &status) ? status.inode : 0;
}

}  // namespace

bool parse_process_stat(std::string_view line, ProcessState* state) {
  const size_t name_end = line.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 >= line.size()) return false;
  std::string_view rest = base::tail(line, name_end + 2);
  const std::string_view letter = next_field(&rest);
  uint64_t threads = 0, start = 0, code = 0, stack = 0;
  for (int field = 1; field <= kStackField; field++) {
    const std::string_view text = next_field(&rest);
    if (field == kThreadsField && !to_number(text, &threads)) return false;
    if (field == kStartField && !to_number(text, &start)) return false;
    if (field == kCodeField && (!to_number(text, &code) || code <= 1)) code = 0;  // 1: hidden
    if (field == kStackField && !to_number(text, &stack)) stack = 0;
  }
  if (letter.size() != 1) return false;
  const bool ended = letter == "Z" || letter == "X" || letter == "x";
  // Programs that are not position-independent all lie at the same place, their stacks do not.
  if (code != 0) code ^= stack << 16;
  // A leader that has ended while other threads run is a zombie with more than one thread.
  *state = {.exists = true, .dead = ended && threads <= 1, .start_ticks = start, .image = code};
  return true;
}

ProcessState process_state(const char* proc_root, int pid) {
  const ErrnoGuard keep_errno;
  ProcessState state;
  if (pid <= 0) return state;
  char path[256];
  base::Text(path).add(proc_root).add("/").add_number(static_cast<uint64_t>(pid)).add("/stat");
  if (has_our_numbers(proc_root) && read_stat(path, &state)) return state;
  state.exists = syscall(SYS_kill, pid, 0) == 0 || errno != ESRCH;
  return state;
}

bool is_gone(const char* proc_root, uint32_t pid, uint64_t start_ticks, uint64_t image) {
  const ProcessState state = process_state(proc_root, static_cast<int>(pid));
  if (!state.exists || state.dead) return true;
  if (image != 0 && state.image != 0 && state.image != image) return true;
  return start_ticks != 0 && state.start_ticks != 0 &&
         ((state.start_ticks ^ start_ticks) & abi::kStartMask) != 0;
}

ProcessState own_state() {
  const ErrnoGuard keep_errno;
  ProcessState state;
  read_stat("/proc/self/stat", &state);
  return state;
}

uint64_t own_start_ticks() { return own_state().start_ticks; }

uint64_t pid_namespace() { return inode_of("/proc/self/ns/pid"); }
uint64_t time_namespace() { return inode_of("/proc/self/ns/time"); }

}  // namespace softmig::sys
