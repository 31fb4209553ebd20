// Root's files of the jobs on this node, in /var/run/softmig:
//
//   {jobid}.conf      limits, read by the library (docs/configuration.md)
//   {jobid}.region    what the job uses, written by its processes; {jobid}.region.extra beside it
//   {jobid}.state     GPUs and slots of the job, for the next job's; empty if its GPUs are whole
//   board/            whether jobs fill their slots (cli/slot_board.h)
//   cgroup_ns         slurmd's cgroup namespace
//   gres              Slurm's order of this node's GPUs
//   gpus              this node's GPUs, as NVML showed them
//   requests          what jobs that have just started asked for
//   lock, asking      held while slots are chosen, and while Slurm is asked
//
// All but regions are replaced by rename: a reader, or a crash, sees the old or the new.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace softmig::cli {

// Slots of one GPU that belong to a job: bits of a frame with `count` slots.
struct SlotClaim {
  std::string gpu;  // UUID
  uint64_t count = 0;
  uint32_t mask = 0;
};

struct JobState {
  uint64_t job_id = 0;
  std::vector<SlotClaim> claims;
};

// `wanted` of `count` slots that are not in `taken`: the lowest run of neighbours, or else the
// lowest that are free. Nothing if there are not so many.
std::optional<uint32_t> choose_slots(uint64_t count, uint64_t wanted, uint32_t taken);

// "0,2/4", as SOFTMIG_SLOTS wants it.
std::string slots_text(uint32_t mask, uint64_t count);

std::string state_text(const JobState& state);
std::optional<JobState> parse_state(uint64_t job_id, std::string_view text);

class SlotBoard;

class NodeState {
 public:
  explicit NodeState(std::string folder = "/var/run/softmig") : folder_(std::move(folder)) {}

  // All of these throw Failure with what is wrong.
  void make_folder() const;  // mode 0755, root's
  void record_cgroup_namespace() const;
  void publish(const std::string& name, const std::string& text) const;  // mode 0644
  void make_region(uint64_t job_id, uint32_t uid, uint32_t gid) const;

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  // Everything of a job; its config goes last, or only what is beside the config.
  void forget(uint64_t job_id, bool config_too) const;
  // Whether the job has a config or slots: its prolog was seen here since the node booted.
  bool knows(uint64_t job_id) const;
  // As forget, but a config stays for ten minutes that lets the job allocate nothing: for a job
  // that was requeued, since slurmd may start it again without a prolog (see docs/slurm.md).
  void bury(uint64_t job_id) const;
  // Jobs that have a file here.
  std::vector<uint64_t> jobs() const;
  SlotBoard board() const;
  // What the other jobs hold of these slots.
  uint32_t taken(uint64_t but_job, const std::string& gpu, uint64_t count) const;

 private:
  std::string folder_;
};

// Holds {folder}/lock until it is destroyed. Throws Failure.
class NodeLock {
 public:
  explicit NodeLock(const NodeState& state);
  ~NodeLock();
  NodeLock(const NodeLock&) = delete;
  NodeLock& operator=(const NodeLock&) = delete;

 private:
  int fd_;
};

}  // namespace softmig::cli
