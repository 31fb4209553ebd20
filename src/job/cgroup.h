// Which Slurm job a cgroup path names.
#pragma once

#include <cstdint>
#include <string_view>

namespace softmig::job {

// The job of another process, from <proc>/<pid>/cgroup; 0 if it names none.
uint64_t job_of_process(const char* proc, uint32_t pid);

}  // namespace softmig::job
