// softmig.conf, of root: every line is understood or a problem that names it.
#include <string>
#include <vector>

#include "fuzz.h"
#include "host/site_config.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<host::SiteProblem> problems;
  const host::SiteConfig config =
      host::parse_site_config(fuzz::text_of(data, size), "softmig.conf", &problems);
  fuzz::must(config.shards.get("") > 0);
  for (const host::SiteProblem& problem : problems) fuzz::must(!problem.text.empty());
  // What goes into every job's config is a line, and no more than one.
  for (const std::string& line : config.job_lines) {
    fuzz::must(line.find('\n') == std::string::npos && line.find('=') != std::string::npos);
  }
  return 0;
}
