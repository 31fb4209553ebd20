#include "agent/enforcer.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "agent/log.h"
#include "base/bytes.h"
#include "host/text.h"
#include "sys/files.h"
#include "sys/log_file.h"

namespace softmig::agent {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kRepeatNs = 60 * kSecond;  // a verdict that lasts is said again
constexpr uint64_t kGraceNs = 5 * kSecond;    // between the offender and the rest of its job
constexpr uint64_t kChildNs = 20 * kSecond;   // for scontrol and scancel
constexpr uint64_t kMostLog = uint64_t{16} << 20;
constexpr uint64_t kMostLines = 40;  // a minute, on one user of one job
constexpr size_t kMostJobs = 4096;   // remembered

// 0 or an errno. On kernels before 5.3 there are no pidfds: what was just looked at is killed by
// its number.
int send_kill(int pidfd, uint32_t pid) {
  const long result = pidfd >= 0 ? syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0)
                                 : syscall(SYS_kill, pid, SIGKILL);
  return result == 0 ? 0 : errno;
}

double seconds(uint64_t ns) { return static_cast<double>(ns) / kSecond; }

std::string text_of(const policy::Verdict& verdict, const std::string& device) {
  using Kind = policy::VerdictKind;
  const std::string who = fmt::format("process {} (uid {})", verdict.pid, verdict.uid);
  const uint64_t mib = verdict.amount / base::kMiB, limit = verdict.limit / base::kMiB;
  switch (verdict.kind) {
    case Kind::kOverMemory:
      return fmt::format(
          "holds {} MiB of {} with a limit of {} MiB, most of it beyond the ledger in "
          "{}",
          mib, device, limit, who);
    case Kind::kNoLibrary:
      return fmt::format("{} holds {} MiB of {} and is in no ledger", who, mib, device);
    case Kind::kStranger:
      return fmt::format("{} holds {} MiB of {}, which is sliced and not its job's", who, mib,
                         device);
    case Kind::kLedger:
      return verdict.limit == 0
                 ? fmt::format("its ledger is broken; it holds {} MiB of {}", mib, device)
                 : fmt::format(
                       "holds {} MiB of {} and its ledger says {} MiB, the difference is in {}",
                       mib, device, limit, who);
    case Kind::kOverCompute:
      return fmt::format(
          "used {:.1f} s of GPU time on {} within 30 s, {:.1f} s are its share; most "
          "by {}",
          seconds(verdict.amount), device, seconds(verdict.limit), who);
    case Kind::kOrphan:
      return fmt::format("{} has ended or its job has, and {} MiB of {} are still held", who, mib,
                         device);
  }
  return {};
}

// The number is a user's only as long as the process of the cgroup is: outside of jobs say so.
std::string subject(uint64_t job) { return job == 0 ? "no job" : fmt::format("job {}", job); }

const char* kill_result_text(KillResult result) {
  switch (result) {
    case KillResult::kKilled:
      return "killed";
    case KillResult::kGone:
      return "gone already";
    case KillResult::kNotTheSame:
      return "not the process that was judged, left alone";
    case KillResult::kRoot:
      return "root's, left alone";
    case KillResult::kFailed:
      return "could not be killed";
  }
  return "";
}

// A line in the job's log, which belongs to its user.
void write_job_log(const std::string& log_dir, uint64_t job, uint32_t uid,
                   const std::string& text) {
  const std::string path = fmt::format("{}/{}.log", log_dir, job);
  const bool there = sys::exists(path.c_str());
  uint64_t size = 0;
  const int fd = sys::open_log_file(path.c_str(), &size);
  if (fd < 0) return;
  // The job's processes must be able to go on writing.
  if (!there && fchown(fd, uid, static_cast<gid_t>(-1)) != 0) {
    close(fd);
    return;
  }
  const std::string line = fmt::format("{:%Y-%m-%d %H:%M:%S} softmigd: {}\n",
                                       fmt::localtime(std::time(nullptr)), host::printable(text));
  if (size < kMostLog) sys::write_once(fd, line);
  close(fd);
}

}  // namespace

KillResult kill_process(const std::string& proc, const Target& target, const JobClaim& claim) {
  if (target.pid <= 1 || target.start_ticks == 0) return KillResult::kNotTheSame;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, target.pid, 0));
  if (fd < 0 && errno == ESRCH) return KillResult::kGone;
  // What is read from here on is of the process that the descriptor holds, if the start time is
  // the one that was judged: the number cannot be another's meanwhile.
  const auto facts = read_process(proc, target.pid, claim);
  KillResult result = KillResult::kNotTheSame;
  if (!facts || !facts->alive || facts->start_ticks != target.start_ticks) {
    result = KillResult::kGone;
  } else if (facts->root || facts->uid == 0) {
    result = KillResult::kRoot;
  } else if (facts->job == target.job && facts->uid == target.uid) {
    const int error = send_kill(fd, target.pid);
    result = error == 0 ? KillResult::kKilled
                        : (error == ESRCH ? KillResult::kGone : KillResult::kFailed);
  }
  if (fd >= 0) close(fd);
  return result;
}

// A user who starts one process after another would fill the journal.
bool Enforcer::may_say(uint64_t job, uint32_t uid) { return lines_[{job, uid}]++ < kMostLines; }

void Enforcer::begin_minute() {
  if (now_ns_ - minute_ns_ < kRepeatNs) return;
  minute_ns_ = now_ns_;
  for (const auto& [who, lines] : lines_) {
    if (lines <= kMostLines) continue;
    say(Weight::kWarning, fmt::format("{}: {} more lines on uid {} were left out",
                                      subject(who.first), lines - kMostLines, who.second));
  }
  lines_.clear();
}

void Enforcer::tell(const policy::Verdict& verdict, const std::string& text) {
  if (!may_say(verdict.job, verdict.uid)) return;
  say(Weight::kWarning,
      fmt::format("{}: {}: {}", subject(verdict.job), policy::verdict_name(verdict.kind), text));
}

KillResult Enforcer::kill_one(const Target& target, const std::string& why) {
  const KillResult result = kill_process(proc_, target, claim_);
  const std::string text =
      fmt::format("process {}: {}: {}", target.pid, kill_result_text(result), why);
  const bool aloud = may_say(target.job, target.uid);
  if (aloud) say(Weight::kWarning, fmt::format("{}: {}", subject(target.job), text));
  if (result == KillResult::kKilled) {
    counts_.kills++;
    if (aloud && target.job != 0) write_job_log(log_dir_, target.job, target.uid, text);
  } else if (result != KillResult::kGone) {
    counts_.failed_kills++;
  }
  return result;
}

void Enforcer::kill(const policy::Verdict& verdict, Course* course,
                    std::span<const policy::GpuProcess> processes) {
  const std::string why = fmt::format("{}: {}", policy::verdict_name(verdict.kind), course->text);
  if (course->killed_ns != 0 && now_ns_ - course->killed_ns < kGraceNs) return;
  if (course->spared == verdict.pid) return;
  course->killed_ns = now_ns_;
  // Nobody else pays for an offender that was left alone.
  if (!course->struck) {
    const KillResult result =
        kill_one({verdict.pid, verdict.start_ticks, verdict.job, verdict.uid}, why);
    course->struck = result == KillResult::kKilled || result == KillResult::kGone;
    if (result == KillResult::kRoot) course->spared = verdict.pid;
    return;
  }
  std::set<uint32_t> done;
  for (const policy::GpuProcess& process : processes) {
    const bool its = verdict.job != 0 ? process.job == verdict.job : process.pid == verdict.pid;
    if (!its || !process.alive || !done.insert(process.pid).second) continue;
    kill_one({process.pid, process.start_ticks, process.job, process.uid}, why);
  }
}

void Enforcer::start(std::vector<std::string> command, uint64_t job) {
  std::vector<char*> words;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (const int fd : {0, 1, 2}) {
    posix_spawn_file_actions_addopen(&files, fd, "/dev/null", fd == 0 ? O_RDONLY : O_WRONLY, 0);
  }
  pid_t child = 0;
  if (posix_spawnp(&child, words[0], &files, nullptr, words.data(), environ) == 0) {
    children_[child] = {now_ns_, job, command.front()};
  } else {
    say(Weight::kError, fmt::format("{} cannot be started", command.front()));
  }
  posix_spawn_file_actions_destroy(&files);
}

// Where scontrol can be had, the job's record says why.
void Enforcer::comment(const policy::Verdict& verdict, const std::string& text) {
  if (commented_.size() > kMostJobs) commented_.clear();
  if (!commented_.insert(verdict.job).second) return;
  start({"scontrol", "update", fmt::format("JobId={}", verdict.job),
         fmt::format("Comment=SoftMig: {}: {}", policy::verdict_name(verdict.kind), text)},
        verdict.job);
}

// Once for all verdicts on the job; again if it still runs a minute later.
void Enforcer::cancel(uint64_t job, const std::string& why) {
  if (cancelled_.size() > kMostJobs) cancelled_.clear();
  const auto [when, first] = cancelled_.try_emplace(job, now_ns_);
  if (!first && now_ns_ - when->second < kRepeatNs) return;
  when->second = now_ns_;
  counts_.cancels++;
  say(Weight::kWarning, fmt::format("job {}: scancel: {}", job, why));
  start({"scancel", std::to_string(job)}, job);
}

void Enforcer::enforce(const policy::Verdict& verdict, host::Answer answer, Course* course,
                       std::span<const policy::GpuProcess> processes) {
  kill(verdict, course, processes);
  // What root started in a job is nothing that its user did.
  if (verdict.job == 0 || course->spared == verdict.pid) return;
  comment(verdict, course->text);
  if (answer == host::Answer::kCancel) cancel(verdict.job, course->text);
}

void Enforcer::act(uint64_t now_ns, std::span<const policy::Verdict> verdicts,
                   std::span<const policy::GpuProcess> processes, const host::SiteConfig& site,
                   const std::vector<std::string>& device_names) {
  now_ns_ = now_ns;
  begin_minute();
  for (auto& [id, course] : courses_) course.seen = false;
  for (const policy::Verdict& verdict : verdicts) {
    Course& course = courses_[verdict.id];
    course.seen = true;
    const bool first = course.said_ns == 0;
    if (first) counts_.verdicts[static_cast<size_t>(verdict.kind)]++;
    if (first || now_ns - course.said_ns >= kRepeatNs) {
      course.text = fmt::format("{} ({:.0f} s)", text_of(verdict, device_names[verdict.device]),
                                seconds(now_ns - verdict.since_ns));
      course.said_ns = now_ns;
      tell(verdict, course.text);
    }
    const host::Answer answer = site.answer[static_cast<size_t>(verdict.kind)];
    if (answer != host::Answer::kReport) enforce(verdict, answer, &course, processes);
  }
  std::erase_if(courses_, [](const auto& item) { return !item.second.seen; });
}

void Enforcer::out_of_memory(uint64_t job, uint32_t uid, uint32_t device,
                             std::span<const policy::GpuProcess> processes) {
  for (const policy::GpuProcess& process : processes) {
    if (process.job != job || process.device != device || process.uid != uid) continue;
    if (!process.alive || job == 0 || uid == 0) continue;
    kill_one({process.pid, process.start_ticks, job, uid},
             "ACTIVE_OOM_KILLER: an allocation of the job was refused");
  }
}

void Enforcer::reap(uint64_t now_ns) {
  for (auto child = children_.begin(); child != children_.end();) {
    if (now_ns - child->second.since_ns > kChildNs) ::kill(child->first, SIGKILL);
    int status = 0;
    if (waitpid(child->first, &status, WNOHANG) == 0) {
      ++child;
      continue;
    }
    if (status != 0) {
      say(Weight::kError,
          fmt::format("job {}: {} failed", child->second.job, child->second.program));
    }
    child = children_.erase(child);
  }
}

}  // namespace softmig::agent
