#include "job/log.h"

#include <string.h>

#include <atomic>
#include <cstdarg>

#include "base/format.h"
#include "base/text.h"
#include "sys/clock.h"
#include "sys/env.h"
#include "sys/files.h"
#include "sys/log_file.h"
#include "sys/self.h"

namespace softmig::job {
namespace {

using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

constexpr int kConsoleLevel = 3, kOff = -1;
constexpr char kLevelNames[][8] = {"error", "warning", "debug", "info", "trace"};
constexpr uint64_t kLastLineBytes = 2 * kLogLineBytes;  // where less is left, the file is ended
constexpr uint64_t kOthersBytes =
    uint64_t{64} * 1024;  // what other processes may write at the same instant
constexpr char kCutMark[] = " ...\n", kConsolePrefix[] = "softmig: ";
constexpr char kLastWords[] = "this log is full: nothing more is written to it";

using Path = char[768];

// What the paths are made of. They are put together for each line, since a fork child has its own
// pid{pid}.log.
struct Target {
  uint64_t job_id, array_task, has_array;
  char directory[256];
  char file[256];  // SOFTMIG_LOG_FILE, or empty
  char temporary[504];
};

// A target that many threads read while one replaces it, without a lock that a killed thread, a
// fork or a signal handler could find held: two copies, the one not in use is written. A reader
// that was overtaken twice sees it by the copy's version.
class SharedTarget {
 public:
  void set(const Target& target) {
    if (busy_.exchange(true, memory_order_acquire)) return;
    const uint32_t next = 1 - current_.load(memory_order_relaxed);
    Copy& copy = copies_[next];
    // Odd: being written. It is already odd in the child of a fork that came between these lines.
    const uint32_t writing = copy.version.load(memory_order_relaxed) | 1;
    copy.version.store(writing, memory_order_relaxed);
    for (size_t i = 0; i < kWords; i++) {
      copy.word[i].store(reinterpret_cast<const Word*>(&target)[i], memory_order_release);
    }
    copy.version.store(writing + 1, memory_order_release);
    current_.store(next, memory_order_release);
    busy_.store(false, memory_order_release);
  }

  bool get(Target* target) const {
    for (int attempt = 0; attempt < 4; attempt++) {
      const Copy& copy = copies_[current_.load(memory_order_acquire)];
      const uint32_t version = copy.version.load(memory_order_acquire);
      if (version % 2 != 0) continue;
      for (size_t i = 0; i < kWords; i++) {
        reinterpret_cast<Word*>(target)[i] = copy.word[i].load(memory_order_acquire);
      }
      if (copy.version.load(memory_order_relaxed) == version) return true;
    }
    return false;
  }

  void reset() { busy_.store(false, memory_order_release); }

 private:
  using Word [[gnu::may_alias]] = uint64_t;
  static_assert(sizeof(Target) % sizeof(Word) == 0);
  static constexpr size_t kWords = sizeof(Target) / sizeof(Word);
  struct Copy {
    std::atomic<uint32_t> version{0};
    std::atomic<uint64_t> word[kWords]{};
  };
  std::atomic<bool> busy_{false};
  std::atomic<uint32_t> current_{0};
  Copy copies_[2];
};

// A bucket of kLogBurst lines, refilled at kLogLinesPerSecond: one word, the time at which it would
// be full again.
class RateLimit {
 public:
  bool take(uint64_t now) {
    constexpr uint64_t kPerLine = 1'000'000'000 / kLogLinesPerSecond;
    uint64_t full_at = full_at_.load(memory_order_relaxed);
    for (;;) {
      const uint64_t next = (full_at > now ? full_at : now) + kPerLine;
      if (next > now + kLogBurst * kPerLine) break;
      if (full_at_.compare_exchange_weak(full_at, next, memory_order_relaxed)) return true;
    }
    left_out_.fetch_add(1, memory_order_relaxed);
    return false;
  }
  uint64_t collect_left_out() {
    return left_out_.load(memory_order_relaxed) == 0 ? 0 : left_out_.exchange(0);
  }
  void reset() {
    full_at_.store(0, memory_order_relaxed);
    left_out_.store(0, memory_order_relaxed);
  }

 private:
  std::atomic<uint64_t> full_at_{0}, left_out_{0};
};

constinit std::atomic<int> g_level{kOff};
constinit SharedTarget g_target;
constinit RateLimit g_error_rate, g_rate;

void copy_text(char* to, size_t size, const char* from) {
  base::Text text(to, size);
  text.add(from);
  if (text.overflowed()) text.clear();  // half a path names another file
}

// "2024-11-22T23:12:05Z": days are counted from 1 March of year 0, so that leap days end a cycle.
void add_time(base::Text& text, uint64_t seconds) {
  const uint64_t second = seconds % 86400, days = seconds / 86400 + 719468;
  const uint64_t era = days / 146097, day_of_era = days % 146097;
  const uint64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const uint64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const uint64_t shifted_month = (5 * day_of_year + 2) / 153;
  const uint64_t month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
  text.add_number(era * 400 + year_of_era + (month <= 2 ? 1 : 0), 4).add('-');
  text.add_number(month, 2).add('-').add_number(day_of_year - (153 * shifted_month + 2) / 5 + 1, 2);
  text.add('T').add_number(second / 3600, 2).add(':').add_number(second / 60 % 60, 2).add(':');
  text.add_number(second % 60, 2).add('Z');
}

// "2026-01-31T23:59:59Z 4711 error: "
void begin_line(base::Text& line, LogLevel level) {
  add_time(line, sys::realtime_ns() / 1'000'000'000);
  line.add(' ').add_number(static_cast<uint64_t>(sys::pid())).add(' ');
  line.add(kLevelNames[static_cast<int>(level)]).add(": ");
}

bool default_path(const Target& target, Path& path) {
  base::Text text(path);
  text.add(target.directory).add('/');
  if (target.job_id == 0) text.add("pid").add_number(static_cast<uint64_t>(sys::pid()));
  if (target.job_id != 0) text.add_number(target.job_id);
  if (target.job_id != 0 && target.has_array != 0) text.add('_').add_number(target.array_task);
  return !text.add(".log").overflowed() && target.directory[0] != '\0';
}

bool fallback_path(const Target& target, Path& path) {
  base::Text text(path);
  text.add(target.temporary).add("/softmig_").add_number(target.job_id).add(".log");
  return !text.overflowed() && target.job_id != 0 && target.temporary[0] == '/';
}

// The last line fills the file exactly, so that every process sees that it is full. What is left
// for it is always more than its words need: a line before it leaves kLogLineBytes at least.
void write_last_line(int fd, uint64_t room) {
  char line[kLastLineBytes];
  base::Text text(line, room);
  begin_line(text, LogLevel::kError);
  text.add(kLastWords);
  while (!text.overflowed()) text.add(' ');
  line[room - 1] = '\n';
  sys::write_once(fd, {line, room});
}

// Bytes that a log may reach: its own bound, or what the program is allowed to write.
uint64_t size_limit() {
  const uint64_t allowed = sys::file_size_limit();
  if (allowed >= kLogFileBytes + kOthersBytes) return kLogFileBytes;
  return allowed > kOthersBytes ? allowed - kOthersBytes : 0;
}

// False if nothing could be written and another file should be tried.
bool write_to(const char* path, std::string_view line) {
  uint64_t size = 0;
  const int fd = sys::open_log_file(path, &size);
  if (fd < 0) return false;
  const uint64_t limit = size_limit(), room = limit > size ? limit - size : 0;
  bool written = true;
  if (room >= kLastLineBytes) {
    written = sys::write_once(fd, line);
  } else if (room != 0) {
    write_last_line(fd, room);
  }
  sys::close_file(fd);
  return written;
}

void write_to_file(const Target& target, std::string_view line) {
  Path path;
  if (target.file[0] != '\0' && write_to(target.file, line)) return;
  if (default_path(target, path) && write_to(path, line)) return;
  if (fallback_path(target, path)) write_to(path, line);
}

// `line` begins with kConsolePrefix, which the file does not need.
void write_line(const Target& target, std::string_view line) {
  write_to_file(target, base::tail(line, sizeof kConsolePrefix - 1));
  if (g_level.load(memory_order_relaxed) >= kConsoleLevel) sys::write_to_console(line);
}

// Room for the mark of a cut line is kept free at the end of the buffer.
std::string_view end_line(base::Text& text, char* line) {
  const std::string_view end = text.overflowed() ? kCutMark : "\n";
  memcpy(line + text.size(), end.data(), end.size());
  return {line, text.size() + end.size()};
}

void report_left_out(const Target& target, uint64_t count) {
  char line[256];
  base::Text text(line);
  text.add(kConsolePrefix);
  begin_line(text, LogLevel::kError);
  text.add_number(count).add(" lines left out\n");
  write_line(target, text.view());
}

}  // namespace

void log_configure(const Places& places, const Config& config) {
  const sys::ErrnoGuard keep_errno;
  Target target = {};
  target.job_id = config.identity.job_id;
  target.array_task = config.identity.array_task;
  target.has_array = config.identity.has_array ? 1 : 0;
  copy_text(target.directory, sizeof target.directory, places.log_dir);
  copy_text(target.file, sizeof target.file, config.settings.log_file);
  if (const char* directory = sys::variable("SLURM_TMPDIR"); directory != nullptr) {
    copy_text(target.temporary, sizeof target.temporary, directory);
  }
  g_target.set(target);
  g_level.store(config.settings.log_level, memory_order_release);
}

bool log_enabled(LogLevel level) {
  return static_cast<int>(level) <= g_level.load(memory_order_acquire);
}

void log(LogLevel level, const char* format, ...) {
  if (!log_enabled(level)) return;
  const sys::ErrnoGuard keep_errno;
  RateLimit& rate = level == LogLevel::kError ? g_error_rate : g_rate;
  if (!rate.take(sys::monotonic_ns())) return;
  Target target;
  if (!g_target.get(&target)) return;
  if (const uint64_t count = rate.collect_left_out(); count != 0) report_left_out(target, count);

  char line[kLogLineBytes];
  base::Text text(line, sizeof line - sizeof kCutMark + 2);
  text.add(kConsolePrefix);
  begin_line(text, level);
  va_list arguments;
  va_start(arguments, format);
  base::format(text, format, arguments);
  va_end(arguments);
  write_line(target, end_line(text, line));
}

void log_after_fork() {
  g_target.reset();
  g_error_rate.reset();
  g_rate.reset();
}

}  // namespace softmig::job
