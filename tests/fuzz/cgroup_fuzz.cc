// Lines of /proc/<pid>/cgroup: a job is a number that stands in the line.
#include <string>

#include "fuzz.h"
#include "job/cgroup.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line = fuzz::text_of(data, size);
  const uint64_t job = job::job_in_cgroup_line(line), cut = job::job_in_cgroup_line(line, false);
  fuzz::must(cut == 0 || cut == job);
  fuzz::must(job <= UINT32_MAX);
  if (job != 0) {
    fuzz::must(line.find("slurm") != std::string_view::npos);
    // Leading zeros may stand before it.
    fuzz::must(line.find(std::to_string(job)) != std::string_view::npos);
  }
  return 0;
}
