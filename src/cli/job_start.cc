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
#include "cli/gpu_order.h"
#include "cli/job_gres.h"
#include "cli/job_plan.h"
#include "cli/job_record.h"
#include "cli/node_state.h"
#include "cli/nvml.h"
#include "cli/site_config.h"
#include "cli/slot_board.h"

namespace softmig::cli {
namespace {

// Two tries of the controller end before Slurm's own limits for a prolog do.
constexpr double kQuerySeconds = 10;
constexpr int kQueryTries = 2;
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

struct Job {
  uint64_t id = 0;
  uint32_t uid = 0, gid = 0;
  std::string node;
  bool may_have_gpu = true;
};

Job job_of_environment() {
  Job job;
  job.id = number_variable("SLURM_JOB_ID");
  if (job.id == 0) throw Failure("SLURM_JOB_ID is 0", "", kExitUsage);
  job.uid = static_cast<uint32_t>(number_variable("SLURM_JOB_UID"));
  if (std::getenv("SLURM_JOB_GID") != nullptr) {
    job.gid = static_cast<uint32_t>(number_variable("SLURM_JOB_GID"));
  }
  job.node = variable("SLURMD_NODENAME");
  job.may_have_gpu = !variable("SLURM_JOB_GPUS").empty() || access(kDriverFile, F_OK) == 0;
  return job;
}

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

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string record_of(const Job& job) {
  std::string why;
  for (int i = 0; i < kQueryTries; i++) {
    const ChildResult result = run_child(
        {"scontrol", "-d", "-o", "show", "job", fmt::format("{}", job.id)}, kQuerySeconds);
    if (!result.started) throw Failure("scontrol is not found");
    if (result.status == 0) return result.out;
    why = result.timed_out ? "it does not answer" : first_line(result.err);
  }
  throw Failure("the Slurm controller cannot be asked: " + why);
}

std::vector<GresItem> gres_of(const Job& job) {
  std::vector<GresItem> items;
  switch (find_gres(record_of(job), job.id, job.node, &items)) {
    case RecordStatus::kOk:
      return items;
    case RecordStatus::kNoJob:
      throw Failure(fmt::format("the Slurm controller knows no job {}", job.id));
    case RecordStatus::kNoNode:
      throw Failure(fmt::format(
          "the Slurm controller does not tell what the job has on node \"{}\"", job.node));
    case RecordStatus::kBadGres:
      throw Failure("the job's GRES cannot be understood: is this Slurm newer than SoftMig?");
  }
  return items;
}

std::vector<NodeGpu> node_gpus() {
  std::string error;
  const std::unique_ptr<Nvml> nvml = Nvml::open(&error);
  if (nvml == nullptr) throw Failure(error);
  std::vector<NodeGpu> gpus;
  for (const NvmlDevice& device : nvml->devices()) {
    const auto memory = nvml->memory(device.handle);
    if (!memory) throw Failure("the driver does not tell the memory of " + device.uuid_text);
    gpus.push_back({device.minor, device.uuid_text, device.name, memory->total});
  }
  std::sort(gpus.begin(), gpus.end(),
            [](const NodeGpu& a, const NodeGpu& b) { return a.minor < b.minor; });
  if (gpus.empty()) throw Failure("the driver shows no GPU");
  return gpus;
}

// Jobs that have files here and are no more: their epilog never ran. Asks the controller, so it is
// only done where slots are missing.
void sweep(const NodeState& state, const Job& job) {
  const ChildResult result = run_child({"squeue", "-h", "-w", job.node, "-o", "%A"}, kQuerySeconds);
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

void set_up(const NodeState& state, const Job& job, OnFailure* on_failure) {
  const SiteConfig site = site_config();
  *on_failure = site.on_failure;
  const std::vector<GresItem> items = gres_of(job);
  const bool sliced = std::any_of(items.begin(), items.end(),
                                  [](const GresItem& item) { return item.name == "shard"; });
  if (!sliced) return state.forget(job.id, true);
  const std::vector<NodeGpu> gpus = node_gpus();
  const std::vector<int> order =
      gpus.size() == 1 ? std::vector<int>() : slurm_gpu_order(state, job.node);
  open_job(state, job, plan_slices(items, order, gpus, site), site);
}

// The job stays closed; its user reads why in the job's record.
void cancel(const NodeState& state, const Job& job, const std::string& why) {
  state.publish(fmt::format("{}.conf", job.id), closed_config_text(job.uid, why));
  const std::string id = fmt::format("{}", job.id);
  run_child({"scontrol", "update", "JobId=" + id, "Comment=SoftMig: " + why}, kQuerySeconds);
  run_child({"scancel", id}, kQuerySeconds);
}

int job_start() {
  const Job job = job_of_environment();
  prepare_environment();
  const NodeState state;
  state.make_folder();
  state.record_cgroup_namespace();
  if (!job.may_have_gpu) {
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
  // Slurm counts a requeue before the epilog: this is not 0 if the job is to run again.
  const std::string restarts = variable("SLURM_JOB_RESTART_COUNT");
  if (restarts.empty() || restarts == "0") {
    state.forget(job, true);
  } else {
    umask(022);
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
