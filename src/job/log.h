// The job's log file: silent to the user below level 3, bounded in size and rate, free of injection
// (control bytes are escaped), never able to fail or slow the program: it opens, writes and gives up.
#pragma once

#include "job/config.h"

namespace softmig::job {

enum class LogLevel { kError = 0, kWarning = 1, kDebug = 2, kInfo = 3, kTrace = 4 };

// Sets level and paths from the config. Cheap; no file is opened before the first line.
void log_configure(const Places& places, const Config& config);
// True if a line of this level would be written: test it before formatting anything costly.
bool log_enabled(LogLevel level);
[[gnu::format(printf, 2, 3)]] void log(LogLevel level, const char* format, ...);
// After fork: drops what is inherited (locks, descriptors are reopened on the next line).
void log_after_fork();

}  // namespace softmig::job
