// softmig job-start and job-end: the work of Slurm's prolog and epilog on a node.
//
// A job that has shards is closed (a config that lets it allocate nothing) before anything can
// fail, and opened when all is known. So whatever ends this program at whatever instant, no such
// job ever runs without limits.
#include <fmt/core.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "cli/child.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/gpu_list.h"
#include "cli/gpu_order.h"
#include "cli/job_gres.h"
#include "cli/job_plan.h"
#include "cli/job_query.h"
#include "cli/job_record.h"
#include "cli/node_state.h"
#include "cli/output.h"
#include "cli/site_config.h"
#include "cli/slot_board.h"

namespace softmig::cli {
namespace {

constexpr double kSweepSeconds = 10;
constexpr double kCancelSeconds = 5;  // for each of two clients
constexpr size_t kMostComment = 500;  // Slurm refuses one of more than 1024 bytes
constexpr const char* kPath = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin:/opt/slurm/bin";
constexpr const char* kDriverFile = "/proc/driver/nvidia/version";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

uint64_t number_variable(const char* name) {
  const std::string text = variable(name);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Failure(
        fmt::format("{} is \"{}\": this is the work of Slurm's prolog and epilog", name, text),
        "docs/slurm.md says how they call it", kExitUsage);
  }
  return value;
}

using Job = PrologJob;

Job job_of_environment() {
  Job job;
  job.id = number_variable("SLURM_JOB_ID");
  if (job.id == 0) throw Failure("SLURM_JOB_ID is 0", "", kExitUsage);
  job.uid = static_cast<uint32_t>(number_variable("SLURM_JOB_UID"));
  if (std::getenv("SLURM_JOB_GID") != nullptr) {
    job.gid = static_cast<uint32_t>(number_variable("SLURM_JOB_GID"));
  }
  if (std::getenv("SLURM_JOB_RESTART_COUNT") != nullptr) {
    job.restarts = number_variable("SLURM_JOB_RESTART_COUNT");
  }
  job.node = variable("SLURMD_NODENAME");
  job.gpus = variable("SLURM_JOB_GPUS");
  return job;
}

bool may_have_gpu(const Job& job) { return !job.gpus.empty() || access(kDriverFile, F_OK) == 0; }

void report(const std::string& text) {
  fmt::print(stderr, "softmig: {}\n", text);
  openlog("softmig", LOG_PID, LOG_DAEMON);
  syslog(LOG_ERR, "%s", text.c_str());
}

// A prolog has no PATH, and must not be taken for a process of its job by our own library.
void prepare_environment() {
  if (variable("PATH").empty()) setenv("PATH", kPath, 1);
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_JOBID");
  umask(022);
}

SiteConfig site_config() {
  std::vector<SiteProblem> problems;
  SiteConfig site = read_site_config(kSiteConfigFile, &problems);
  for (const SiteProblem& problem : problems) {
    if (!problem.warning) throw Failure(problem.text);
  }
  // A site's own prolog may say it too, as it always could.
  const std::string shards = variable("NUM_SHARDS_PER_GPU");
  if (shards.empty()) return site;
  const SiteConfig asked =
      parse_site_config("NUM_SHARDS_PER_GPU=" + shards, "environment", &problems);
  if (!problems.empty() && !problems.back().warning) throw Failure(problems.back().text);
  if (site.shards_set && site.shards.get("") != asked.shards.get("")) {
    throw Failure(fmt::format("NUM_SHARDS_PER_GPU is {} in the environment and {} in {}", shards,
                              site.shards.get(""), kSiteConfigFile));
  }
  site.shards.set_general(asked.shards.get(""));
  return site;
}

// Jobs that have files here and are no more: their epilog never ran. Asks the controller, so it is
// only done where slots are missing.
void sweep(const NodeState& state, const Job& job) {
  const ChildResult result = run_child({"squeue", "-h", "-w", job.node, "-o", "%A"}, kSweepSeconds);
  if (!result.started || result.status != 0) return;
  const std::string running = "\n" + result.out;
  for (const uint64_t other : state.jobs()) {
    if (other == job.id || running.find(fmt::format("\n{}\n", other)) != std::string::npos)
      continue;
    report(fmt::format("job {}: its files were left behind, removed", other));
    state.forget(other, true);
  }
}

// The same slots on all of the job's GPUs, since a config has one line for them. Nothing where the
// GPUs differ in their number of slots, or have none left.
std::optional<uint32_t> find_slots(const NodeState& state, const Job& job,
                                   const std::vector<GpuSlice>& slices) {
  uint32_t taken = 0;
  for (const GpuSlice& slice : slices) {
    if (slice.of != slices.front().of || slice.shards != slices.front().shards) return std::nullopt;
    taken |= state.taken(job.id, slice.uuid, slice.of);
  }
  return choose_slots(slices.front().of, slices.front().shards, taken);
}

std::string claim_slots(const NodeState& state, const Job& job,
                        const std::vector<GpuSlice>& slices) {
  const NodeLock lock(state);
  auto mask = find_slots(state, job, slices);
  if (!mask) {
    sweep(state, job);
    mask = find_slots(state, job, slices);
  }
  JobState claims;
  claims.job_id = job.id;
  for (const GpuSlice& slice : slices) {
    claims.claims.push_back({slice.uuid, slice.of, mask.value_or(0)});
  }
  state.publish(fmt::format("{}.state", job.id), state_text(claims));
  if (mask) state.board().give(claims.claims, job.uid, job.gid);
  return mask ? slots_text(*mask, slices.front().of) : "";
}

void open_job(const NodeState& state, const Job& job, const std::vector<GpuSlice>& slices,
              const SiteConfig& site) {
  const std::string slots = claim_slots(state, job, slices);
  state.make_region(job.id, job.uid, job.gid);
  std::string text = config_text(slices, job.uid, slots, site);
  if (!slots.empty()) text += fmt::format("SOFTMIG_BOARD={}\n", state.board().folder());
  state.publish(fmt::format("{}.conf", job.id), text);
}

bool has_shards(const std::vector<GresItem>& items) {
  return std::any_of(items.begin(), items.end(),
                     [](const GresItem& item) { return item.name == "shard"; });
}

// True if an index of Slurm means the GPU with this minor number, by whatever way it is told.
bool is_plain(const std::vector<int>& order, const std::vector<NodeGpu>& gpus) {
  for (size_t i = 0; i < order.size(); i++) {
    if (order[i] != static_cast<int>(i)) return false;
  }
  return gpus.size() == 1 || order.size() == gpus.size();
}

// A job without shards has no limits. The epilog must know that one with GPUs began here.
void set_free(const NodeState& state, const Job& job) {
  state.forget(job.id, true);
  if (!job.gpus.empty()) state.publish(fmt::format("{}.state", job.id), state_text({}));
}

void set_up(const NodeState& state, const Job& job, OnFailure* on_failure) {
  const SiteConfig site = site_config();
  *on_failure = site.on_failure;
  std::optional<std::vector<GresItem>> items = items_by_request(state, job);
  const bool by_request = items.has_value();
  if (!items) items = items_by_record(job);
  // Nothing is told of a job that is over, and that is no reason to let it have everything.
  if (items->empty() && !job.gpus.empty()) {
    throw Failure("the job has GPUs, and the Slurm controller does not tell which: is it over?");
  }
  if (!has_shards(*items)) return set_free(state, job);
  const std::vector<NodeGpu> gpus = node_gpus(state);
  const std::vector<int> order =
      gpus.size() == 1 ? std::vector<int>() : slurm_gpu_order(state, job.node);
  if (by_request && !is_plain(order, gpus)) items = items_by_record(job);
  open_job(state, job, plan_slices(*items, order, gpus, site), site);
}

// The job stays closed; its user reads why in the job's record.
void cancel(const NodeState& state, const Job& job, const std::string& why) {
  state.publish(fmt::format("{}.conf", job.id), closed_config_text(job.uid, why));
  const std::string id = fmt::format("{}", job.id);
  const std::string comment = printable(why).substr(0, kMostComment);
  run_child({"scontrol", "update", "JobId=" + id, "Comment=SoftMig: " + comment}, kCancelSeconds);
  run_child({"scancel", id}, kCancelSeconds);
}

int job_start() {
  const Job job = job_of_environment();
  prepare_environment();
  const NodeState state;
  state.make_folder();
  state.record_cgroup_namespace();
  if (!may_have_gpu(job)) {
    state.forget(job.id, true);
    return kExitOk;
  }
  state.publish(fmt::format("{}.conf", job.id),
                closed_config_text(job.uid, "the job was not set up"));
  state.forget(job.id, false);
  OnFailure on_failure = OnFailure::kCancel;
  try {
    set_up(state, job, &on_failure);
  } catch (const Failure& failure) {
    report(fmt::format("job {}: {}", job.id, failure.what()));
    if (on_failure == OnFailure::kDrain) return kExitFailure;
    cancel(state, job, failure.what());
  }
  return kExitOk;
}

int job_end() {
  const uint64_t job = number_variable("SLURM_JOB_ID");
  const NodeState state;
  keep_record(job);
  // Slurm counts a requeue before the epilog: this is not 0 if the job is to run again. It is 0 all
  // the same where the node booted under the job, and then there is nothing of the job here.
  const std::string restarts = variable("SLURM_JOB_RESTART_COUNT");
  const bool began_before = !variable("SLURM_JOB_GPUS").empty() && !state.knows(job);
  if ((restarts.empty() || restarts == "0") && !began_before) {
    state.forget(job, true);
  } else {
    umask(022);
    state.make_folder();
    state.bury(job);
  }
  return kExitOk;
}

}  // namespace

void add_job_start(CLI::App& app, int* status) {
  CLI::App* command = app.add_subcommand(
      "job-start", "Set up the slice of a job on this node: the work of Slurm's prolog");
  command->footer(
      "Reads SLURM_JOB_ID, SLURM_JOB_UID, SLURMD_NODENAME and the job's GRES from the controller.\n"
      "Exit status 0: the job is limited, has no slice, or was cancelled; 1: drain this node.");
  command->callback([status] { *status = job_start(); });
}

void add_job_end(CLI::App& app, int* status) {
  CLI::App* command = app.add_subcommand(
      "job-end", "Remove the files of a job on this node: the work of Slurm's epilog");
  command->callback([status] { *status = job_end(); });
}

}  // namespace softmig::cli
