#include "cli/job_query.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>

#include "cli/child.h"
#include "cli/failure.h"

namespace softmig::cli {
namespace {

// Two tries of the controller end before Slurm's own limits for a prolog do.
constexpr double kQuerySeconds = 10;
constexpr int kQueryTries = 2;
constexpr const char* kRequests = "requests";
constexpr time_t kFreshSeconds = 2;  // for which an array counts as starting
constexpr uint64_t kMixed = 0;       // in place of the array of a job: do not ask for arrays
// Jobs that start together wait for the one that asks, and ask themselves if that takes long.
constexpr int kTurnMs = 100;
constexpr size_t kMostRequests = 256;

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// The turn of a user's jobs: only they share answers. Waits for it, but not long: somebody may wait
// for a controller that is down.
class Turn {
 public:
  Turn(const NodeState& state, uint32_t uid)
      : fd_(open(state.path("asking").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) {
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = uid;  // one byte for each user; none is ever written
    lock.l_len = 1;
    for (int i = 0; i < kTurnMs && fd_ >= 0 && fcntl(fd_, F_OFD_SETLK, &lock) != 0; i++) {
      usleep(1000);
    }
  }
  ~Turn() {
    if (fd_ >= 0) close(fd_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  int fd_;
};

std::vector<JobRequest> known_requests(const NodeState& state) {
  const std::string path = state.path(kRequests);
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return {};
  const time_t age = time(nullptr) - status.st_mtime;
  if (age < 0 || age > kFreshSeconds) return {};
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return parse_requests_text(text.str());
}

const JobRequest* find(const std::vector<JobRequest>& requests, const PrologJob& job) {
  for (const JobRequest& request : requests) {
    if (request.job_id == job.id && request.uid == job.uid && request.restarts == job.restarts) {
      return &request;
    }
  }
  return nullptr;
}

// What is known of this user's jobs.
std::vector<JobRequest> of_user(const std::vector<JobRequest>& requests, uint32_t uid) {
  std::vector<JobRequest> own;
  std::copy_if(requests.begin(), requests.end(), std::back_inserter(own),
               [uid](const JobRequest& request) { return request.uid == uid; });
  return own;
}

// An array of which a task was started a moment ago, among one user's requests; 0 if there is none,
// or if jobs that are none of its tasks start in between.
uint64_t starting_array(const std::vector<JobRequest>& requests) {
  uint64_t array = 0;
  for (const JobRequest& request : requests) {
    if (request.array_id == kMixed) return 0;
    if (request.array_id != request.job_id) array = request.array_id;
  }
  return array;
}

std::string requests_text(const std::vector<JobRequest>& requests) {
  std::string text;
  for (const JobRequest& one : requests) {
    text +=
        fmt::format("{} {} {} {} {}\n", one.job_id, one.array_id, one.uid, one.restarts, one.tres);
  }
  return text;
}

// Puts this user's requests in place of his earlier ones, and keeps the other users'.
void keep_requests(const NodeState& state, uint32_t uid, std::vector<JobRequest> requests) {
  for (const JobRequest& request : known_requests(state)) {
    if (request.uid != uid && requests.size() < kMostRequests) requests.push_back(request);
  }
  state.publish(kRequests, requests_text(requests));
}

std::vector<JobRequest> ask(uint64_t id) {
  const ChildResult result = run_child({"squeue", "--local", "--all", "--noheader", "--states=R,CF",
                                        fmt::format("--jobs={}", id), "-O", kRequestFormat},
                                       kQuerySeconds);
  // A prolog must not wait for every client in turn.
  if (result.timed_out) throw Failure("the Slurm controller cannot be asked: it does not answer");
  if (result.err.find("Unable to contact") != std::string::npos) {
    throw Failure("the Slurm controller cannot be asked: " + first_line(result.err));
  }
  if (!result.started || result.status != 0) return {};
  return parse_requests(result.out);
}

std::string records_of(const std::string& name) {
  std::string why;
  for (int i = 0; i < kQueryTries; i++) {
    // --local: the jobs of other clusters of a federation are on no node of this one.
    const ChildResult result =
        run_child({"scontrol", "--local", "-d", "-o", "show", "job", name}, kQuerySeconds);
    if (!result.started) throw Failure("scontrol is not found");
    if (result.status == 0) return result.out;
    why = result.timed_out ? "it does not answer" : first_line(result.err);
  }
  throw Failure("the Slurm controller cannot be asked: " + why);
}

}  // namespace

std::optional<std::vector<GresItem>> items_by_request(const NodeState& state,
                                                      const PrologJob& job) {
  if (const auto known = known_requests(state); const JobRequest* mine = find(known, job)) {
    return items_of_request(*mine, job.gpus);
  }
  std::optional<Turn> turn;
  std::vector<JobRequest> own = of_user(known_requests(state), job.uid);
  if (own.empty() || starting_array(own) != 0) {
    turn.emplace(state, job.uid);
    own = of_user(known_requests(state), job.uid);
    if (const JobRequest* mine = find(own, job)) return items_of_request(*mine, job.gpus);
  }
  const uint64_t array = starting_array(own);
  if (!own.empty() && array == 0) turn.reset();  // there is nothing to share
  bool mixed = !own.empty() && own.front().array_id == kMixed;
  std::vector<JobRequest> requests = ask(array != 0 ? array : job.id);
  if (array != 0 && find(requests, job) == nullptr) {
    mixed = true;
    requests = ask(job.id);
  }
  const JobRequest* mine = find(requests, job);
  if (mine == nullptr) return std::nullopt;
  const auto items = items_of_request(*mine, job.gpus);
  for (JobRequest& request : requests) request.array_id = mixed ? kMixed : request.array_id;
  keep_requests(state, job.uid, requests);
  return items;
}

std::vector<GresItem> items_by_record(const PrologJob& job) {
  std::string records = records_of(fmt::format("{}", job.id));
  std::vector<GresItem> items;
  RecordStatus status = find_gres(records, job.id, job.node, &items);
  if (status == RecordStatus::kForged) {
    const std::string name = single_name(records, job.id);
    if (!name.empty()) {
      records = records_of(name);
      const bool mine = records.starts_with(fmt::format("JobId={} ", job.id));
      if (mine) status = find_gres(records, job.id, job.node, &items);
    }
  }
  switch (status) {
    case RecordStatus::kOk:
      return items;
    case RecordStatus::kNoJob:
      throw Failure(fmt::format("the Slurm controller knows no job {}", job.id));
    case RecordStatus::kNoNode:
      throw Failure(fmt::format(
          "the Slurm controller does not tell what the job has on node \"{}\"", job.node));
    case RecordStatus::kBadGres:
      throw Failure("the job's GRES cannot be understood: is this Slurm newer than SoftMig?");
    case RecordStatus::kForged:
      throw Failure("the job's name or another text of it looks like a part of its record");
  }
  return items;
}

std::vector<JobRequest> parse_requests_text(std::string_view text) {
  std::vector<JobRequest> requests;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    JobRequest one;
    words >> one.job_id >> one.array_id >> one.uid >> one.restarts >> std::ws;
    if (words && std::getline(words, one.tres)) requests.push_back(one);
  }
  return requests;
}

}  // namespace softmig::cli
