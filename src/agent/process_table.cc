#include "agent/process_table.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <string_view>
#include <vector>

#include "job/cgroup.h"
#include "job/components.h"
#include "sys/files.h"
#include "sys/proc.h"

namespace softmig::agent {
namespace {

constexpr uint64_t kKeepNs = 5'000'000'000;
constexpr size_t kMostStatus = 8192;
constexpr size_t kMostEnvironment = size_t{128} * 1024;

template <typename T>
std::string_view take_number(std::string_view text, T* value) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  if (error != std::errc()) return {};
  return text.substr(static_cast<size_t>(end - text.data()));
}

// What follows "\nName:" in /proc/<pid>/status.
std::string_view field(std::string_view status, std::string_view name) {
  const size_t at = status.find(name);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = status.substr(at + name.size());
  return rest.substr(0, rest.find('\n'));
}

void take_uids(std::string_view list, ProcessFacts* facts) {
  for (int i = 0; i < 4 && !list.empty(); i++) {
    uint32_t uid = 0;
    list = take_number(list, &uid);
    facts->root = facts->root || uid == 0;
    if (uid != 0 && facts->uid == 0) facts->uid = uid;
  }
}

uint64_t namespace_inode(const std::string& path) {
  char target[64] = {};
  const ssize_t length = readlink(path.c_str(), target, sizeof target - 1);
  const std::string_view text(target, length > 0 ? static_cast<size_t>(length) : 0);
  const size_t open = text.find('[');
  uint64_t inode = 0;
  if (open != std::string_view::npos) take_number(text.substr(open + 1), &inode);
  return inode;
}

// The job that a process says it is of, if that is true.
uint64_t claimed_job(const std::string& proc, uint32_t pid, uint32_t uid, const JobClaim& claim) {
  const auto number = [&](const char* name) {
    uint64_t value = 0;
    take_number(process_variable(proc, pid, name), &value);
    return value;
  };
  const uint64_t said = number("SLURM_JOB_ID");
  if (said == 0 || claim(said, uid)) return said;
  uint64_t found = 0;
  job::find_component(number, [&](uint64_t id) {
    if (claim(id, uid)) found = id;
    return found != 0;
  });
  return found;
}

// Whether a process has a file open or mapped whose path begins with this, such as "/dev/nvidia".
bool has_open(const std::string& proc, uint32_t pid, const std::string& beginning) {
  std::error_code ended;
  std::filesystem::directory_iterator entry(fmt::format("{}/{}/fd", proc, pid), ended);
  for (; !ended && entry != std::filesystem::directory_iterator(); entry.increment(ended)) {
    char target[256];
    const long length = sys::read_link(entry->path().c_str(), target, sizeof target);
    if (length > 0 &&
        std::string_view(target, static_cast<size_t>(length)).starts_with(beginning)) {
      return true;
    }
  }
  // What is mapped need not be open any more.
  const int maps =
      sys::open_to_read(sys::kCurrentDirectory, fmt::format("{}/{}/maps", proc, pid).c_str());
  if (maps < 0) return false;
  sys::LineReader lines(maps);
  bool found = false;
  for (std::string_view line; !found && lines.next(&line);) {
    const size_t path = line.find('/');
    found = path != std::string_view::npos && line.substr(path).starts_with(beginning);
  }
  sys::close_file(maps);
  return found;
}

}  // namespace

std::string process_variable(const std::string& proc, uint32_t pid, const char* name) {
  std::vector<char> text(kMostEnvironment);
  const std::string path = fmt::format("{}/{}/environ", proc, pid);
  const long size = sys::read_small(path.c_str(), text.data(), text.size());
  if (size <= 0) return {};
  std::string_view rest(text.data(), static_cast<size_t>(size));
  const std::string wanted = std::string(name) + "=";
  while (!rest.empty()) {
    const size_t end = rest.find('\0');
    const std::string_view entry = rest.substr(0, end);
    if (entry.starts_with(wanted)) return std::string(entry.substr(wanted.size()));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return {};
}

bool read_inner_pid(const std::string& proc, uint32_t pid, uint32_t* inner, uint64_t* name_space) {
  char text[kMostStatus];
  const std::string folder = fmt::format("{}/{}", proc, pid);
  const long size = sys::read_small((folder + "/status").c_str(), text, sizeof text);
  if (size <= 0) return false;
  *inner = pid;
  // One number a namespace, the innermost last.
  for (std::string_view list = field({text, static_cast<size_t>(size)}, "\nNSpid:");
       !list.empty();) {
    uint32_t number = 0;
    list = take_number(list, &number);
    if (number != 0) *inner = number;
  }
  *name_space = namespace_inode(folder + "/ns/pid");
  return true;
}

std::optional<ProcessFacts> read_process(const std::string& proc, uint32_t pid,
                                         const JobClaim& claim) {
  const sys::ProcessState state = sys::process_state(proc.c_str(), static_cast<int>(pid));
  if (!state.exists || state.start_ticks == 0) return std::nullopt;
  ProcessFacts facts;
  facts.pid = pid;
  facts.start_ticks = state.start_ticks;
  facts.image = state.image;
  facts.alive = !state.dead;
  char text[kMostStatus];
  const std::string status = fmt::format("{}/{}/status", proc, pid);
  const long size = sys::read_small(status.c_str(), text, sizeof text);
  if (size <= 0) return std::nullopt;
  take_uids(field({text, static_cast<size_t>(size)}, "\nUid:"), &facts);
  read_inner_pid(proc, pid, &facts.inner_pid, &facts.pid_namespace);
  facts.job = job::job_of_process(proc.c_str(), pid);
  if (facts.job == 0 && claim) facts.job = claimed_job(proc, pid, facts.uid, claim);
  // All of it is of one process only if that was there all along.
  const sys::ProcessState after = sys::process_state(proc.c_str(), static_cast<int>(pid));
  if (!after.exists || after.start_ticks != state.start_ticks) return std::nullopt;
  return facts;
}

const ProcessFacts* ProcessTable::find(uint32_t pid) const {
  const auto entry = entries_.find(pid);
  return entry == entries_.end() ? nullptr : &entry->second.facts;
}

const ProcessFacts& ProcessTable::look(uint32_t pid, uint64_t now_ns) {
  Entry& entry = entries_[pid];
  entry.seen = true;
  const sys::ProcessState state = sys::process_state(proc_.c_str(), static_cast<int>(pid));
  const bool same =
      state.exists && state.start_ticks == entry.facts.start_ticks && entry.facts.start_ticks != 0;
  if (same && now_ns - entry.read_ns < kKeepNs) {
    entry.facts.alive = !state.dead;
    entry.facts.image = state.image;
    return entry.facts;
  }
  const bool another = entry.known && !same;
  const bool believed = state.exists && (!another || has_open(proc_, pid, devices_));
  const auto read = believed ? read_process(proc_, pid, claim_) : std::nullopt;
  if (read) {
    // The dead have left their cgroup, or soon will: what was known of them stays.
    if (same && !read->alive) {
      entry.facts.alive = false;
    } else {
      entry.facts = *read;
    }
    entry.read_ns = now_ns;
  } else {
    entry.facts.pid = pid;
    entry.facts.alive = false;
  }
  return entry.facts;
}

void ProcessTable::sweep() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->second.seen) {
      entry->second.seen = false;
      entry->second.known = true;
      ++entry;
    } else {
      entry = entries_.erase(entry);
    }
  }
}

}  // namespace softmig::agent
