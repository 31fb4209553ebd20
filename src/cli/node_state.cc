#include "cli/node_state.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "cli/failure.h"
#include "cli/slot_board.h"
#include "job/region.h"
#include "sys/publish.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMostSlots = 32;
constexpr time_t kLitterSeconds = 60;
// Longer than the 120 s for which slurmd knows a job that is over.
constexpr time_t kBuriedSeconds = 600;
// A good config without SOFTMIG_UID: it is looked at for this job alone.
constexpr const char* kBuriedText =
    "# This job was requeued, and Slurm started it again without its prolog: requeue it anew.\n"
    "CUDA_DEVICE_MEMORY_LIMIT=1M\n";

uint32_t low_bits(uint64_t count) { return count >= 32 ? UINT32_MAX : (uint32_t{1} << count) - 1; }

std::optional<uint64_t> number_in(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The job that a file of this folder belongs to; 0 if it is none's.
uint64_t job_of(const std::string& name) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return 0;
  const std::string_view rest = std::string_view(name).substr(dot);
  // "122.conf.new.4711" is what a writer that was killed left.
  for (const std::string_view kind : {".conf", ".region", ".state"}) {
    if (rest.starts_with(kind)) return number_in(std::string_view(name).substr(0, dot)).value_or(0);
  }
  return 0;
}

// Empty if it cannot be read.
std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool is_older(const std::string& path, time_t seconds) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0 && status.st_mtime + seconds < time(nullptr);
}

// What is of no use to anybody: what a writer that was killed left of a file that is no job's, and
// configs of jobs that were buried long ago.
bool is_litter(const std::string& path, const std::string& name) {
  for (const std::string_view kind :
       {"cgroup_ns.new.", "gres.new.", "gpus.new.", "requests.new."}) {
    if (name.starts_with(kind)) return is_older(path, kLitterSeconds);
  }
  return name.ends_with(".conf") && is_older(path, kBuriedSeconds) && contents(path) == kBuriedText;
}

void check(int error, const std::string& path) {
  if (error != 0) throw Failure(with_errno(path, error));
}

}  // namespace

std::optional<uint32_t> choose_slots(uint64_t count, uint64_t wanted, uint32_t taken) {
  if (count == 0 || count > kMostSlots || wanted == 0 || wanted > count) return std::nullopt;
  for (uint64_t first = 0; first + wanted <= count; first++) {
    const uint32_t run = low_bits(wanted) << first;
    if ((run & taken) == 0) return run;
  }
  uint32_t mask = 0;
  for (uint64_t slot = 0; slot < count && wanted > 0; slot++) {
    const uint32_t bit = uint32_t{1} << slot;
    if ((taken & bit) != 0) continue;
    mask |= bit;
    wanted--;
  }
  if (wanted > 0) return std::nullopt;
  return mask;
}

std::string slots_text(uint32_t mask, uint64_t count) {
  std::string text;
  for (uint64_t slot = 0; slot < count; slot++) {
    if ((mask >> slot & 1) != 0) text += fmt::format("{}{}", text.empty() ? "" : ",", slot);
  }
  return fmt::format("{}/{}", text, count);
}

std::string state_text(const JobState& state) {
  std::string text;
  for (const SlotClaim& claim : state.claims) {
    text += fmt::format("{} {} {:x}\n", claim.gpu, claim.count, claim.mask);
  }
  return text;
}

std::optional<JobState> parse_state(uint64_t job_id, std::string_view text) {
  JobState state;
  state.job_id = job_id;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    SlotClaim claim;
    words >> claim.gpu >> claim.count >> std::hex >> claim.mask;
    if (!words || !words.eof() || claim.count == 0 || claim.count > kMostSlots) return std::nullopt;
    state.claims.push_back(claim);
  }
  return state;
}

void NodeState::make_folder() const {
  if (mkdir(folder_.c_str(), 0755) != 0 && errno != EEXIST) check(errno, folder_);
  struct stat status = {};
  if (lstat(folder_.c_str(), &status) != 0) check(errno, folder_);
  if (!S_ISDIR(status.st_mode) || status.st_uid != 0 || (status.st_mode & 022) != 0) {
    throw Failure(folder_ + ": is not a folder of root's that nobody else can write");
  }
}

void NodeState::record_cgroup_namespace() const {
  struct stat status = {};
  // A kernel without cgroup namespaces hides no job.
  if (stat("/proc/self/ns/cgroup", &status) != 0) return;
  const std::string text = fmt::format("{}\n", status.st_ino);
  if (contents(path("cgroup_ns")) != text) publish("cgroup_ns", text);
}

void NodeState::publish(const std::string& name, const std::string& text) const {
  const std::string file = path(name);
  check(sys::publish_file(file.c_str(), text.data(), text.size(), 0644), file);
}

void NodeState::make_region(uint64_t job_id, uint32_t uid, uint32_t gid) const {
  const std::string file = path(fmt::format("{}.region", job_id));
  check(job::create_region_file(file.c_str(), uid, gid), file);
}

SlotBoard NodeState::board() const { return SlotBoard(path("board")); }

void NodeState::forget(uint64_t job_id, bool config_too) const {
  // Before the state goes, with which the slots become free.
  const auto state = parse_state(job_id, contents(path(fmt::format("{}.state", job_id))));
  if (state) board().take_back(state->claims);
  std::error_code error;
  std::vector<fs::path> files;
  const std::string config = fmt::format("{}.conf", job_id);
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename();
    if ((job_of(name) == job_id && name != config) || is_litter(entry.path(), name)) {
      files.push_back(entry.path());
    }
  }
  for (const fs::path& file : files) unlink(file.c_str());
  if (config_too && unlink(path(config).c_str()) != 0 && errno != ENOENT) {
    check(errno, path(config));
  }
}

bool NodeState::knows(uint64_t job_id) const {
  return access(path(fmt::format("{}.conf", job_id)).c_str(), F_OK) == 0 ||
         access(path(fmt::format("{}.state", job_id)).c_str(), F_OK) == 0;
}

void NodeState::bury(uint64_t job_id) const {
  publish(fmt::format("{}.conf", job_id), kBuriedText);
  forget(job_id, false);
}

std::vector<uint64_t> NodeState::jobs() const {
  std::set<uint64_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const uint64_t job = job_of(entry.path().filename());
    if (job != 0) found.insert(job);
  }
  return {found.begin(), found.end()};
}

uint32_t NodeState::taken(uint64_t but_job, const std::string& gpu, uint64_t count) const {
  uint32_t mask = 0;
  for (const uint64_t job : jobs()) {
    if (job == but_job) continue;
    const auto state = parse_state(job, contents(path(fmt::format("{}.state", job))));
    if (!state) continue;
    for (const SlotClaim& claim : state->claims) {
      // Frames of different lengths have nothing in common: such a job counts as holding all.
      if (claim.gpu == gpu) mask |= claim.count == count ? claim.mask : UINT32_MAX;
    }
  }
  return mask & low_bits(count);
}

NodeLock::NodeLock(const NodeState& state)
    : fd_(open(state.path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) {
  if (fd_ < 0) throw Failure(with_errno(state.path("lock"), errno));
  while (flock(fd_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    const int error = errno;
    close(fd_);
    throw Failure(with_errno(state.path("lock"), error));
  }
}

NodeLock::~NodeLock() { close(fd_); }

}  // namespace softmig::cli
