#include "agent/log.h"

#include <syslog.h>

#include <cstdio>
#include <cstdlib>

#include "host/text.h"

namespace softmig::agent {

// The journal takes standard error as syslog takes the call: one of them is enough there.
void say(Weight weight, const std::string& text) {
  static const bool in_journal = std::getenv("JOURNAL_STREAM") != nullptr;
  const std::string line = host::printable(text);
  if (in_journal) {
    fmt::print(stderr, "<{}>{}\n", static_cast<int>(weight), line);
    return;
  }
  fmt::print(stderr, "softmigd: {}\n", line);
  syslog(LOG_DAEMON | static_cast<int>(weight), "softmigd: %s", line.c_str());
}

}  // namespace softmig::agent
