// The job's log file: silent to the user below level 3, bounded in size and rate, free of injection
// (control bytes are escaped), never able to fail or slow the program: it opens, writes and gives
// up.
//
// The file, first that can be written:
//   SOFTMIG_LOG_FILE                       from the config or, unless privileged, the environment
//   /var/log/softmig/{jobid}.log           or {jobid}_{arrayid}.log in an array job
//   $SLURM_TMPDIR/softmig_{jobid}.log
// and outside of Slurm /var/log/softmig/pid{pid}.log.
//
// Every line opens the file, checks it, writes once and closes. A descriptor that stayed open could
// be closed by the program (closefrom, daemons), and its number could by then be the program's own
// file; it would have to be told apart in fork children, and would hold a rotated file. Lines are
// rare and limited in rate, and the four system calls cost a few microseconds.
#pragma once

#include "job/config.h"

namespace softmig::job {

enum class LogLevel { kError = 0, kWarning = 1, kDebug = 2, kInfo = 3, kTrace = 4 };

inline constexpr uint64_t kLogLineBytes = 1024;  // longer lines are cut
inline constexpr uint64_t kLogFileBytes =
    uint64_t{16} * 1024 * 1024;                     // then one last line and no more
inline constexpr uint64_t kLogBurst = 50;           // lines of a process at once,
inline constexpr uint64_t kLogLinesPerSecond = 10;  // and then; errors have their own such

// Sets level and paths from the config. Cheap; no file is opened before the first line, and nothing
// is written before the first call.
void log_configure(const Places& places, const Config& config);
// True if a line of this level would be written: test it before formatting anything costly.
bool log_enabled(LogLevel level);
// The conversions are those of base/format.h. Allocates nothing, takes no lock, keeps errno; may be
// called from a signal handler and in a fork child.
[[gnu::format(printf, 2, 3)]] void log(LogLevel level, const char* format, ...);
// After fork: drops what is inherited.
void log_after_fork();

}  // namespace softmig::job
