// What follows from a verdict: words always, and where the site wants it SIGKILL or scancel.
//
// Killed is only who is proven to be the one that was judged, at the moment of the kill and by a
// pidfd: same start time, same job, no uid of root. First the offending process; if the verdict
// still holds five seconds later, the other GPU processes of its job. An offender that was left
// alone stands for nobody else.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/process_table.h"
#include "host/site_config.h"
#include "policy/verdict.h"

namespace softmig::agent {

// Who is to be killed, as it was judged.
struct Target {
  uint32_t pid = 0;
  uint64_t start_ticks = 0;
  uint64_t job = 0;
  uint32_t uid = 0;
};

enum class KillResult { kKilled, kGone, kNotTheSame, kRoot, kFailed };

// Kills this process and no other.
KillResult kill_process(const std::string& proc, const Target& target, const JobClaim& claim);

struct EnforcerCounts {
  std::array<uint64_t, policy::kVerdictKinds> verdicts = {};  // begun
  uint64_t kills = 0, failed_kills = 0, cancels = 0;
};

class Enforcer {
 public:
  Enforcer(std::string proc, std::string log_dir, JobClaim claim)
      : proc_(std::move(proc)), log_dir_(std::move(log_dir)), claim_(std::move(claim)) {}

  // All verdicts that hold now, and all GPU processes. `device_names` as the judge numbers devices.
  void act(uint64_t now_ns, std::span<const policy::Verdict> verdicts,
           std::span<const policy::GpuProcess> processes, const host::SiteConfig& site,
           const std::vector<std::string>& device_names);
  // ACTIVE_OOM_KILLER: an allocation of this job was refused on this device.
  void out_of_memory(uint64_t job, uint32_t uid, uint32_t device,
                     std::span<const policy::GpuProcess> processes);
  // Programs that were started have ended, or are ended.
  void reap(uint64_t now_ns);
  const EnforcerCounts& counts() const { return counts_; }

 private:
  struct Course {
    uint64_t said_ns = 0, killed_ns = 0;
    bool struck = false;  // the offender was killed, or is gone
    uint32_t spared = 0;  // the offender, if it is root's
    bool seen = false;
    std::string text;
  };
  struct Child {
    uint64_t since_ns = 0;
    uint64_t job = 0;
    std::string program;
  };
  void begin_minute();
  bool may_say(uint64_t job, uint32_t uid);
  void tell(const policy::Verdict& verdict, const std::string& text);
  void enforce(const policy::Verdict& verdict, host::Answer answer, Course* course,
               std::span<const policy::GpuProcess> processes);
  void kill(const policy::Verdict& verdict, Course* course,
            std::span<const policy::GpuProcess> processes);
  KillResult kill_one(const Target& target, const std::string& why);
  void comment(const policy::Verdict& verdict, const std::string& text);
  void cancel(uint64_t job, const std::string& why);
  void start(std::vector<std::string> command, uint64_t job);

  std::string proc_, log_dir_;
  JobClaim claim_;
  uint64_t now_ns_ = 0, minute_ns_ = 0;
  std::map<uint64_t, Course> courses_;
  std::map<std::pair<uint64_t, uint32_t>, uint64_t> lines_;  // this minute, by job and user
  std::set<uint64_t> commented_;
  std::map<uint64_t, uint64_t> cancelled_;  // when, by job
  std::map<int, Child> children_;
  EnforcerCounts counts_;
};

}  // namespace softmig::agent
