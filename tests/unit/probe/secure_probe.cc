// Run setuid by secure_test: what a privileged program believes. Arguments: run directory, /proc,
// log directory. Prints one word per line.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "job/config.h"
#include "job/log.h"
#include "sys/env.h"

using namespace softmig;

int main(int, char** argv) {
  const job::Places places = {argv[1], argv[2], argv[3], 0};
  job::Config config;
  job::load_config(places, &config);
  const char* const names[] = {"none", "file", "uid", "environment", "closed"};
  std::printf("%s\n%s\n", sys::is_secure() ? "secure" : "ordinary",
              sys::variable("PATH") != nullptr ? "variables" : "no-variables");
  std::printf("%s\n", names[static_cast<int>(config.source)]);
  job::log_configure(places, config);
  job::log(job::LogLevel::kError, "a line of a privileged program");
}
