// softmig limits: which slice is this, where do its limits come from, and what is used.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "abi/region.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "cli/region_look.h"
#include "cli/visible.h"
#include "job/calibration.h"
#include "job/config.h"
#include "job/extra.h"
#include "job/region.h"
#include "job/region_view.h"
#include "policy/settings.h"

namespace softmig::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitNotLimited = 3;
constexpr int kExitClosed = 4;

struct Device {
  int index = -1;  // as nvidia-smi numbers, -1: not known
  std::string name, uuid;
  uint64_t key = 0;
  int slot = -1;              // place in the region, -1: no process of the slice has used it
  uint64_t memory_limit = 0;  // bytes, 0: none; never more than the card has
  uint64_t sm_limit = 0;      // percent, 0: none
  uint64_t used = 0, peak = 0, refusals = 0, extra = 0;
  uint64_t context_cost = 0;  // 0: the library estimates it
  int processes = 0;
  job::ViewedDevice compute;  // what was done with the share of GPU time

  uint64_t free() const { return memory_limit > used ? memory_limit - used : 0; }
};

struct Slice {
  job::Config config;
  char region[job::kMaxPath] = {};
  job::ViewStatus region_status = job::ViewStatus::kMissing;
  std::vector<Device> devices;
  std::vector<job::ViewedProcess> processes;
};

const char* source_name(job::Source source) {
  switch (source) {
    case job::Source::kNone:
      return "none";
    case job::Source::kFile:
      return "file";
    case job::Source::kUid:
      return "uid";
    case job::Source::kEnvironment:
      return "environment";
    case job::Source::kClosed:
      return "closed";
  }
  return "none";
}

std::string source_text(const job::Config& config) {
  switch (config.source) {
    case job::Source::kFile:
      return fmt::format("{} (root's file of this job)", config.path);
    case job::Source::kUid:
      return fmt::format("the smallest limits of this user's jobs here ({})", config.path);
    case job::Source::kEnvironment:
      return std::getenv("SOFTMIG_REGION") != nullptr ? "softmig run" : "environment variables";
    case job::Source::kClosed:
      return "none that can be used: every allocation is refused";
    case job::Source::kNone:
      break;
  }
  return "nowhere: this process is not limited";
}

class Gather {
 public:
  Slice operator()() {
    job::load_config(places_, &slice_.config);
    const bool has_region = slice_.config.source != job::Source::kNone &&
                            job::region_path(places_, slice_.config, slice_.region);
    if (has_region) read_region();
    std::string error;
    nvml_ = Nvml::open(&error);
    add_driver_devices();
    add_region_devices();
    for (Device& device : slice_.devices) fill(&device);
    return std::move(slice_);
  }

 private:
  void read_region() {
    RegionLook look = look_at_region(slice_.region, places_.proc);
    slice_.region_status = look.status;
    slice_.processes = std::move(look.processes);
    view_ = look.view;
    if (!job::read_extra_page(slice_.region, &extra_)) extra_.device_count = 0;
  }

  // What CUDA shows to programs that are started here, in its order.
  void add_driver_devices() {
    if (nvml_ == nullptr) return;
    const char* list = std::getenv("CUDA_VISIBLE_DEVICES");
    for (const NvmlDevice* device : visible_in(list, nvml_->devices())) {
      Device shown;
      shown.index = device->index;
      shown.name = printable(device->name);
      shown.uuid = device->uuid_text;
      shown.key = device->key;
      shown.memory_limit = limit_of(device->uuid, device->index, &policy::memory_limit);
      const auto card = nvml_->memory(device->handle);
      if (card && shown.memory_limit > card->total) shown.memory_limit = card->total;
      shown.sm_limit = limit_of(device->uuid, device->index, &policy::sm_limit);
      slice_.devices.push_back(shown);
    }
  }

  uint64_t limit_of(const policy::Uuid& uuid, int index,
                    uint64_t (*limit)(const policy::Settings&, int)) const {
    const policy::Settings& settings = slice_.config.settings;
    return limit(settings, policy::device_index(settings, uuid, index));
  }

  // Devices that NVML does not show, or that CUDA_VISIBLE_DEVICES hides from here, may still be
  // used.
  void add_region_devices() {
    for (int i = 0; i < static_cast<int>(abi::kMaxDevices); i++) {
      const uint64_t key = view_.device[i].key;
      if (key == 0) continue;
      auto shown = std::find_if(slice_.devices.begin(), slice_.devices.end(),
                                [&](const Device& device) { return device.key == key; });
      if (shown == slice_.devices.end()) {
        Device device;
        device.key = key;
        device.name = fmt::format("GPU {:016x}", key);
        device.memory_limit = policy::memory_limit(slice_.config.settings, -1);
        device.sm_limit = policy::sm_limit(slice_.config.settings, -1);
        shown = slice_.devices.insert(shown, device);
      }
      shown->slot = i;
    }
  }

  void fill(Device* device) {
    const policy::Settings& settings = slice_.config.settings;
    device->context_cost = settings.context_cost;
    if (device->context_cost == 0) {
      job::calibrated_context_cost(device->name, &device->context_cost);
    }
    for (uint32_t i = 0; i < extra_.device_count; i++) {
      if (extra_.device[i].key == device->key) device->extra = extra_.device[i].bytes;
    }
    if (device->slot < 0) return;
    const job::ViewedDevice& seen = view_.device[device->slot];
    device->used = seen.used + device->extra;
    device->peak = seen.peak;
    device->refusals = seen.refusals;
    device->compute = seen;
    for (const job::ViewedProcess& process : slice_.processes) {
      device->processes += process.bytes[device->slot] > 0 ? 1 : 0;
    }
  }

  const job::Places places_{};
  Slice slice_;
  job::RegionView view_;
  abi::ExtraPage extra_ = {};
  std::unique_ptr<Nvml> nvml_;
};

std::string limit_text(uint64_t bytes) { return bytes == 0 ? "no limit" : size_text(bytes); }

void print_devices(const Slice& slice, const Style& style) {
  using enum Table::Align;
  Table table({kLeft, kLeft, kRight, kRight, kRight, kRight, kRight, kRight});
  table.add({"GPU", "NAME", "LIMIT", "USED", "FREE", "PROCESSES", "CONTEXT", "TIME"});
  for (const Device& device : slice.devices) {
    table.add({device.index < 0 ? "?" : std::to_string(device.index), device.name,
               limit_text(device.memory_limit), size_text(device.used),
               device.memory_limit == 0 ? "-" : size_text(device.free()),
               std::to_string(device.processes),
               device.context_cost == 0 ? "estimated" : size_text(device.context_cost),
               device.sm_limit == 0 ? "no limit" : fmt::format("{} %", device.sm_limit)});
  }
  fmt::print("\n{}", table.text(style));
}

// What was done with the share of GPU time, on devices that have a limit of it.
void print_compute(const Slice& slice, const Style& style) {
  using enum Table::Align;
  Table table({kLeft, kRight, kRight, kRight, kRight});
  table.add({"GPU", "GPU TIME USED", "WAITED", "LAUNCHES", "GRAPHS"});
  bool any = false;
  for (const Device& device : slice.devices) {
    if (device.sm_limit == 0) continue;
    const job::ViewedDevice& seen = device.compute;
    table.add({device.index < 0 ? "?" : std::to_string(device.index), duration_text(seen.gpu_ns),
               duration_text(seen.waited_ns), std::to_string(seen.launches),
               std::to_string(seen.graph_launches)});
    any = true;
  }
  if (any) fmt::print("\n{}", table.text(style));
}

std::vector<std::string> process_row(const Device& device, const job::ViewedProcess& process,
                                     bool timed) {
  const job::ViewedCompute& compute = process.compute[device.slot];
  std::vector<std::string> row = {std::to_string(process.pid), user_name(process.uid),
                                  device.index < 0 ? "?" : std::to_string(device.index),
                                  size_text(process.bytes[device.slot])};
  if (timed) {
    row.push_back(duration_text(compute.gpu_ns));
    row.push_back(duration_text(compute.waited_ns));
    row.push_back(std::to_string(compute.launches + compute.graph_launches));
  }
  row.push_back(process.foreign ? "(in a container)" : process_name(process.pid));
  return row;
}

void print_processes(const Slice& slice, const Style& style) {
  using enum Table::Align;
  const bool timed = std::any_of(slice.devices.begin(), slice.devices.end(),
                                 [](const Device& device) { return device.sm_limit != 0; });
  Table table(timed ? std::vector{kRight, kLeft, kLeft, kRight, kRight, kRight, kRight, kLeft}
                    : std::vector{kRight, kLeft, kLeft, kRight, kLeft});
  table.add(timed ? std::vector<std::string>{"PID", "USER", "GPU", "USED", "GPU TIME", "WAITED",
                                             "LAUNCHES", "PROGRAM"}
                  : std::vector<std::string>{"PID", "USER", "GPU", "USED", "PROGRAM"});
  int rows = 0;
  for (const Device& device : slice.devices) {
    if (device.slot < 0) continue;
    for (const job::ViewedProcess& process : slice.processes) {
      if (process.bytes[device.slot] == 0) continue;
      table.add(process_row(device, process, timed));
      rows++;
    }
  }
  if (rows > 0) fmt::print("\n{}", table.text(style));
}

void print_text(const Slice& slice) {
  const Style style(stdout);
  const job::Config& config = slice.config;
  const bool closed = config.source == job::Source::kClosed;
  fmt::print("{}  {}\n", style.bold("limits from"),
             closed ? style.bad(source_text(config)) : source_text(config));
  if (config.error[0] != '\0') {
    fmt::print("{}        {}\n", style.bold("error"), printable(config.error));
  }
  if (config.identity.job_id != 0) {
    fmt::print("{}          {}\n", style.bold("job"), config.identity.job_id);
  }
  if (slice.region[0] != '\0') {
    const std::string trouble = region_trouble(slice.region_status);
    fmt::print("{}       {}{}\n", style.bold("region"), printable(slice.region),
               trouble.empty() ? "" : " (" + trouble + ")");
  }
  if (config.source == job::Source::kNone) return;
  if (slice.devices.empty()) {
    const uint64_t sm = config.settings.sm.strictest();
    fmt::print("{}       {}\n", style.bold("memory"),
               limit_text(config.settings.memory.strictest()));
    fmt::print("{}     {}\n", style.bold("GPU time"),
               sm == 0 ? "no limit" : fmt::format("{} %", sm));
    fmt::print("No GPU is to be seen from here.\n");
    return;
  }
  print_devices(slice, style);
  print_compute(slice, style);
  print_processes(slice, style);
}

Json number_or_null(uint64_t value) { return value == 0 ? Json(nullptr) : Json(value); }

Json to_json(const Slice& slice, const Device& device) {
  Json processes = Json::array();
  for (const job::ViewedProcess& process : slice.processes) {
    if (device.slot < 0 || process.bytes[device.slot] == 0) continue;
    processes.push_back({{"pid", process.pid},
                         {"uid", process.uid},
                         {"bytes", process.bytes[device.slot]},
                         {"context_bytes", process.context_bytes[device.slot]},
                         {"gpu_time_ns", process.compute[device.slot].gpu_ns},
                         {"waited_ns", process.compute[device.slot].waited_ns},
                         {"launches", process.compute[device.slot].launches},
                         {"graph_launches", process.compute[device.slot].graph_launches},
                         {"foreign_pid_namespace", process.foreign}});
  }
  return {{"index", device.index < 0 ? Json(nullptr) : Json(device.index)},
          {"name", device.name},
          {"uuid", device.uuid.empty() ? Json(nullptr) : Json(device.uuid)},
          {"key", fmt::format("{:016x}", device.key)},
          {"memory_limit", number_or_null(device.memory_limit)},
          {"used", device.used},
          {"free", device.memory_limit == 0 ? Json(nullptr) : Json(device.free())},
          {"beyond_ledger", device.extra},
          {"peak", device.peak},
          {"refusals", device.refusals},
          {"context_cost", number_or_null(device.context_cost)},
          {"sm_limit", number_or_null(device.sm_limit)},
          {"gpu_time_ns", device.compute.gpu_ns},
          {"waited_ns", device.compute.waited_ns},
          {"launches", device.compute.launches},
          {"graph_launches", device.compute.graph_launches},
          {"processes", std::move(processes)}};
}

void print_json(const Slice& slice) {
  const job::Config& config = slice.config;
  Json devices = Json::array();
  for (const Device& device : slice.devices) devices.push_back(to_json(slice, device));
  const Json all = {
      {"source", source_name(config.source)},
      {"limited", config.settings.limits_anything() || config.source == job::Source::kClosed},
      {"job", number_or_null(config.identity.job_id)},
      {"config", config.path[0] == '\0' ? Json(nullptr) : Json(config.path)},
      {"error", config.error[0] == '\0' ? Json(nullptr) : Json(config.error)},
      {"region", slice.region[0] == '\0' ? Json(nullptr) : Json(slice.region)},
      {"devices", std::move(devices)}};
  fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
}

int status_of(const job::Config& config) {
  if (config.source == job::Source::kClosed) return kExitClosed;
  return config.settings.limits_anything() ? kExitOk : kExitNotLimited;
}

constexpr const char* kFooter =
    R"(USED is what the slice holds with its contexts and with what the driver keeps for it; FREE is what
can still be had. CONTEXT is what one CUDA context costs. TIME is the share of the GPU's time;
WAITED is how long launches of all processes together were held back for it.
With --json all sizes are bytes, and null means none.
Exit status: 0 limits hold here, 3 this process is not limited, 4 the config cannot be used and
every allocation is refused, 2 bad usage.)";

}  // namespace

void add_limits(CLI::App& app, int* status) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* limits =
      app.add_subcommand("limits", "Show the limits that hold here, their origin and their use");
  limits->add_flag("--json", *as_json, "Print JSON");
  limits->footer(kFooter);
  limits->callback([as_json, status] {
    const Slice slice = Gather()();
    *as_json ? print_json(slice) : print_text(slice);
    *status = status_of(slice.config);
  });
}

}  // namespace softmig::cli
