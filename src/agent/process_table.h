// The GPU processes of the node as /proc shows them: whose they are, and of which job.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace softmig::agent {

struct ProcessFacts {
  uint32_t pid = 0;
  uint64_t start_ticks = 0;  // 0: it was never seen alive
  uint64_t image = 0;        // as sys::ProcessState::image
  bool alive = false;
  // Of the four uids the one that is not 0, if any; `root` says that one of them is 0.
  uint32_t uid = 0;
  bool root = false;
  uint64_t job = 0;  // 0: none
  // Its number in its own pid namespace, and which that is.
  uint32_t inner_pid = 0;
  uint64_t pid_namespace = 0;
};

// Whether a process of this user that says so itself (SLURM_JOB_ID) belongs to this job: asked only
// where the cgroup names none (proctrack/linuxproc).
using JobClaim = std::function<bool(uint64_t job, uint32_t uid)>;

// What /proc says now. None if there is no such process.
std::optional<ProcessFacts> read_process(const std::string& proc, uint32_t pid,
                                         const JobClaim& claim);

// Number in its own pid namespace and inode of that; false if the process is gone.
bool read_inner_pid(const std::string& proc, uint32_t pid, uint32_t* inner, uint64_t* name_space);

// A variable of the environment that the process was started with, empty if there is none.
std::string process_variable(const std::string& proc, uint32_t pid, const char* name);

// Keeps what does not change: of a process that was looked at before only its state is read, all
// the rest every five seconds.
class ProcessTable {
 public:
  // `devices`: how the paths of the driver's device files begin.
  ProcessTable(std::string proc, std::string devices, JobClaim claim)
      : proc_(std::move(proc)), devices_(std::move(devices)), claim_(std::move(claim)) {}

  // Of a process that has died: what was known of it, not alive. A driver names processes by number
  // alone, also one that is gone while a child still holds its memory; so a number that passed to
  // another process while it was listed is that one's only if it has the driver open.
  const ProcessFacts& look(uint32_t pid, uint64_t now_ns);
  // Of the last look; null if there was none.
  const ProcessFacts* find(uint32_t pid) const;
  // Forgets all that were not looked at since the last call.
  void sweep();

 private:
  struct Entry {
    ProcessFacts facts;
    uint64_t read_ns = 0;
    bool seen = false, known = false;  // in this round; in one before
  };
  std::string proc_, devices_;
  JobClaim claim_;
  std::map<uint32_t, Entry> entries_;
};

}  // namespace softmig::agent
