// softmig report: what a job used of its slice, while it runs and after it, and what to ask for
// the next time.
#include <fmt/core.h>
#include <unistd.h>

#include <ctime>
#include <memory>
#include <string>

#include "cli/advice.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/job_record.h"
#include "cli/node_view.h"
#include "cli/output.h"
#include "cli/site_config.h"
#include "sys/files.h"

namespace softmig::cli {
namespace {

constexpr int kExitNone = 3;

// The slice that this process is in.
std::string own_name() {
  const job::Places places;
  job::Config config;
  job::load_config(places, &config);
  if (config.identity.job_id != 0) return std::to_string(config.identity.job_id);
  const char* region = std::getenv("SOFTMIG_REGION");
  if (config.source == job::Source::kNone || region == nullptr) {
    throw Failure("this process is in no slice", "softmig report JOB", kExitUsage);
  }
  return region;
}

std::string plain_name(const std::string& job) {
  const bool sound = job.find('/') == std::string::npos && !job.starts_with('.');
  if (!sound) throw Failure(fmt::format("{}: is not a job", job), "", kExitUsage);
  return job;
}

void add_names(const std::vector<SeenGpu>& gpus, JobRecord* record) {
  for (DeviceRecord& device : record->devices) {
    for (const SeenGpu& gpu : gpus) {
      if (device.name.empty() && gpu.uuid == device.uuid) device.name = gpu.name;
    }
  }
}

// Live, if it runs; the record, if it is over.
JobRecord find(const std::string& job) {
  const NodeView view = NodeWatch().look();
  for (const SeenSlice& slice : view.slices) {
    if (slice.name == job || slice.region == job) return make_record(slice, false);
  }
  const job::Places places;
  if (auto record = read_record(plain_name(job))) {
    add_names(view.gpus, &*record);
    return *record;
  }
  if (sys::exists(fmt::format("{}/{}.conf", places.run_dir, job).c_str())) {
    throw Failure(fmt::format("job {} is not yours", job));
  }
  const bool of_array = job.find('_') != std::string::npos;
  throw Failure(fmt::format("nothing is known of job {} on this node", job),
                of_array ? "a task of an array has a number of its own: sacct -X -o JobID,JobIDRaw"
                         : "records are kept on the nodes where a job ran, for 60 days",
                kExitNone);
}

uint64_t shards_here(const std::string& type) {
  std::vector<SiteProblem> problems;
  return read_site_config(kSiteConfigFile, &problems).shards.get(type);
}

std::string advice_of(const JobRecord& record, const DeviceRecord& device) {
  return advice(device, record.job_id != 0, record.length_ns(), shards_here(type_of(device.name)));
}

std::string when_text(uint64_t ns) {
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm parts = {};
  char text[64] = {};
  if (localtime_r(&seconds, &parts) == nullptr) return "?";
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
  return text;
}

double percent_of(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

void print_device(const JobRecord& record, const DeviceRecord& device, const Style& style) {
  const auto row = [&](const char* name, const std::string& text) {
    fmt::print("{}{}\n", style.bold(fmt::format("{:<10}", name)), text);
  };
  const job::ViewedCompute& compute = device.compute;
  fmt::print("\n");
  row("GPU", device.name.empty() ? device.uuid : device.name);
  row("memory",
      fmt::format("{} at the peak, limit {}; {} request{} refused", short_size(device.peak),
                  device.memory_limit == 0 ? "none" : short_size(device.memory_limit),
                  device.refusals, device.refusals == 1 ? "" : "s"));
  if (device.sm_limit == 0) {
    row("GPU time", "not counted: there is no limit of it");
  } else {
    row("GPU time",
        fmt::format("{}, {:.1f} % of the time, limit {} %", duration_text(compute.gpu_ns),
                    percent_of(compute.gpu_ns, record.length_ns()), device.sm_limit));
    row("waited", fmt::format("{}, in {} launches and {} graphs", duration_text(compute.waited_ns),
                              compute.launches, compute.graph_launches));
  }
  row("advice", advice_of(record, device));
}

void print_text(const JobRecord& record) {
  const Style style(stdout);
  fmt::print("{}{}{} on {}\n", style.bold(record.job_id != 0 ? "job       " : "slice     "),
             record.name, record.uid ? ", " + user_name(*record.uid) : "", record.node);
  fmt::print("{}{}{}{}\n", style.bold("time      "), duration_text(record.length_ns()),
             record.ended ? ", ended" : ", still there",
             record.ended ? " " + when_text(record.end_ns) : "");
  for (const DeviceRecord& device : record.devices) print_device(record, device, style);
}

void print_json(const JobRecord& record) {
  nlohmann::ordered_json json = to_json(record);
  for (size_t i = 0; i < record.devices.size(); i++) {
    json["devices"][i]["advice"] = advice_of(record, record.devices[i]);
  }
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

constexpr const char* kFooter =
    R"(JOB is a job that runs or ran on this node, or a slice as softmig status calls it; without it, the
slice that this process is in. WAITED is how long launches of all its processes together were held
back. Root may ask for any job, anybody else for his own.
Exit status: 0 done, 3 nothing is known of this job here, 1 it is not yours, 2 bad usage.)";

}  // namespace

void add_report(CLI::App& app, int* status) {
  auto as_json = std::make_shared<bool>(false);
  auto job = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("report", "Show what a job used of its slice, and what to ask for");
  command->add_option("JOB", *job, "A job, also one that is over")->type_name("");
  command->add_flag("--json", *as_json, "Print JSON");
  command->footer(kFooter);
  command->callback([job, as_json, status] {
    const JobRecord record = find(job->empty() ? own_name() : *job);
    *as_json ? print_json(record) : print_text(record);
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
