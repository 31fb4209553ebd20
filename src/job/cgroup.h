// Which Slurm job a cgroup path names.
#pragma once

#include <cstdint>
#include <string_view>

namespace softmig::job {

// The job that one line of /proc/<pid>/cgroup names ("4:memory:/slurm_n1/uid_5001/job_122/step_0",
// "0::/system.slice/slurmstepd.scope/job_128/step_0/user/task_0"), 0 if none: the first job_N below
// a component of slurmd. Paths below user.slice do not count, since users can make directories
// there. `complete` is false if the line was cut: its last component is then left out.
uint64_t job_in_cgroup_line(std::string_view line, bool complete = true);

// The job of another process, from <proc>/<pid>/cgroup; 0 if it names none.
uint64_t job_of_process(const char* proc, uint32_t pid);

// The job of this process, from <proc>/self/cgroup; 0 if it names none.
uint64_t job_of_self(const char* proc);

}  // namespace softmig::job
