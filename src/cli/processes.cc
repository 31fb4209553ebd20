// softmig processes: which processes belong to this job or slice, for programs that show no others.
#include <fmt/core.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <string>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/region_look.h"
#include "job/cgroup.h"
#include "job/config.h"
#include "job/region.h"

namespace softmig::cli {
namespace {

constexpr int kExitNoSlice = 3;

// Who has charged memory to the region. Processes of other pid namespaces have no number here.
void add_members(const job::Places& places, const job::Config& config, std::set<uint32_t>* pids) {
  char path[job::kMaxPath] = {};
  if (config.source == job::Source::kNone || !job::region_path(places, config, path)) return;
  const RegionLook look = look_at_region(path, places.proc);
  if (look.status == job::ViewStatus::kForbidden) {
    throw Failure(fmt::format("{}: cannot be read", path));
  }
  for (const job::ViewedProcess& member : look.processes) {
    if (!member.foreign) pids->insert(member.pid);
  }
}

void add_of_job(const job::Places& places, uint64_t id, std::set<uint32_t>* pids) {
  std::error_code ended;
  std::filesystem::directory_iterator entry(places.proc, ended);
  for (; !ended && entry != std::filesystem::directory_iterator(); entry.increment(ended)) {
    const std::string name = entry->path().filename();
    uint32_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    if (job::job_of_process(places.proc, pid) == id) pids->insert(pid);
  }
}

int list_processes() {
  const job::Places places{};
  job::Config config;
  job::load_config(places, &config);
  const job::Identity& who = config.identity;
  if (config.source == job::Source::kNone && who.job_id == 0) return kExitNoSlice;
  std::set<uint32_t> pids;
  add_members(places, config, &pids);
  if (who.from_cgroup) add_of_job(places, who.job_id, &pids);
  for (const uint32_t pid : pids) fmt::print("{}\n", pid);
  return kExitOk;
}

constexpr const char* kFooter =
    R"(One number a line: the processes of this Slurm job by their cgroup, and those that have used a GPU
in this slice. Exit status: 0 done, 3 this is neither in a job nor in a slice, 1 it cannot be told.)";

}  // namespace

void add_processes(CLI::App& app, int* status) {
  CLI::App* processes = app.add_subcommand("processes", "List the processes of this job or slice");
  processes->footer(kFooter);
  processes->callback([status] { *status = list_processes(); });
}

}  // namespace softmig::cli
