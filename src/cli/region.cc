// softmig region: what is in a shared region, as it stands there.
#include "abi/region.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/output.h"
#include "cli/region_look.h"
#include "job/config.h"
#include "job/extra.h"
#include "job/region.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Raw {
  std::string path;
  RegionLook all;    // every slot with an owner
  RegionLook alive;  // those whose process is there, or is in another pid namespace
  abi::ExtraPage extra = {};
  bool has_extra = false;
};

// What "4711", a path, or nothing stands for.
std::string path_of(const std::string& what) {
  const job::Places places;
  std::error_code absent;
  const bool is_path = what.find('/') != std::string::npos;
  if (is_path || std::filesystem::exists(what, absent)) return what;
  if (!what.empty()) {
    if (what.find_first_not_of("0123456789_") == std::string::npos) {
      return fmt::format("{}/{}.region", places.run_dir, what);
    }
    throw Failure(fmt::format("{}: neither a file nor a job", what), "", kExitUsage);
  }
  job::Config config;
  char path[job::kMaxPath] = {};
  job::load_config(places, &config);
  if (config.source == job::Source::kNone || !job::region_path(places, config, path)) {
    throw Failure("this process is in no slice", "softmig region PATH, or the number of a job",
                  kExitUsage);
  }
  return path;
}

// Why a file that can be read is no region.
std::string fault_of(const std::string& path) {
  const int fd = sys::open_untrusted(path.c_str());
  sys::FileStatus status;
  abi::RegionHeader header = {};
  std::string fault;
  if (!sys::status_of_fd(fd, &status) || !status.is_regular()) {
    fault = "not a regular file";
  } else if (!sys::read_exactly(fd, &header, sizeof header, 0) ||
             header.magic != abi::kRegionMagic) {
    fault = "not a region of SoftMig";
  } else if (header.version != abi::kRegionVersion) {
    fault = fmt::format("layout version {}, and this program knows {}", header.version,
                        abi::kRegionVersion);
  } else if (status.size < abi::kRegionSize) {
    fault = fmt::format("cut: {} of {} bytes", status.size, abi::kRegionSize);
  } else {
    fault = "its header has other sizes than its version says";
  }
  sys::close_file(fd);
  return fault;
}

Raw read_raw(const std::string& path) {
  Raw raw;
  raw.path = path;
  raw.all = look_at_region(path, nullptr);
  switch (raw.all.status) {
    case job::ViewStatus::kMissing:
      throw Failure(path + ": there is no such file");
    case job::ViewStatus::kForbidden:
      throw Failure(path + ": cannot be read", "a region belongs to its job's user");
    case job::ViewStatus::kForeign:
      throw Failure(fmt::format("{}: {}", path, fault_of(path)));
    case job::ViewStatus::kOk:
      break;
  }
  raw.alive = look_at_region(path);
  raw.has_extra = job::read_extra_page(path.c_str(), &raw.extra);
  return raw;
}

const char* state_of(const Raw& raw, const job::ViewedProcess& process) {
  if (process.foreign) return "elsewhere";
  const auto& alive = raw.alive.processes;
  return std::any_of(alive.begin(), alive.end(),
                     [&](const auto& other) { return other.slot == process.slot; })
             ? "alive"
             : "gone";
}

std::string time_text(uint64_t ns) {
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm parts = {};
  char text[64] = {};
  if (localtime_r(&seconds, &parts) == nullptr) return std::to_string(ns);
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return text;
}

// How far the share of GPU time is spent ahead of the job's clock; negative: what is saved.
int64_t ahead_ns(const job::ViewedDevice& device) {
  return static_cast<int64_t>(device.paid_until_ns - device.clock_ns);
}

void print_devices(const Raw& raw, const Style& style) {
  using enum Table::Align;
  Table table(
      {kRight, kLeft, kRight, kRight, kRight, kRight, kRight, kRight, kRight, kRight, kRight});
  table.add({"DEVICE", "KEY", "USED", "PEAK", "EXPORTED", "REFUSALS", "GPU TIME", "WAITED",
             "LAUNCHES", "GRAPHS", "PAID AHEAD"});
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    const job::ViewedDevice& device = raw.all.view.device[i];
    if (device.key == 0) continue;
    table.add({std::to_string(i), fmt::format("{:016x}", device.key), size_text(device.used),
               size_text(device.peak), size_text(device.exported), std::to_string(device.refusals),
               duration_text(device.gpu_ns), duration_text(device.waited_ns),
               std::to_string(device.launches), std::to_string(device.graph_launches),
               fmt::format("{:.1f} ms", static_cast<double>(ahead_ns(device)) / 1e6)});
  }
  fmt::print("\n{}", table.text(style));
}

void print_slots(const Raw& raw, const Style& style) {
  using enum Table::Align;
  Table table(
      {kRight, kRight, kRight, kLeft, kRight, kRight, kRight, kRight, kRight, kRight, kRight});
  table.add({"SLOT", "PID", "UID", "STATE", "DEVICE", "CHARGED", "CONTEXTS", "GPU TIME", "WAITED",
             "LAUNCHES", "GRAPHS"});
  for (const job::ViewedProcess& process : raw.all.processes) {
    for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
      if (raw.all.view.device[i].key == 0) continue;
      const job::ViewedCompute& compute = process.compute[i];
      table.add({std::to_string(process.slot), std::to_string(process.pid),
                 std::to_string(process.uid), state_of(raw, process), std::to_string(i),
                 size_text(process.bytes[i]), size_text(process.context_bytes[i]),
                 duration_text(compute.gpu_ns), duration_text(compute.waited_ns),
                 std::to_string(compute.launches), std::to_string(compute.graph_launches)});
    }
  }
  if (!raw.all.processes.empty()) fmt::print("\n{}", table.text(style));
}

void print_text(const Raw& raw) {
  const Style style(stdout);
  const job::RegionView& view = raw.all.view;
  fmt::print("{}      {}\n", style.bold("region"), printable(raw.path));
  fmt::print("{}      version {}, {} bytes, {} slots of {} used so far\n", style.bold("layout"),
             abi::kRegionVersion, abi::kRegionSize, view.high_water, abi::kMaxSlots);
  fmt::print("{}     {}\n", style.bold("created"), time_text(view.created_ns));
  for (uint32_t i = 0; raw.has_extra && i < raw.extra.device_count; i++) {
    fmt::print("{} {:016x}: {}\n", style.bold("extra page "), raw.extra.device[i].key,
               size_text(raw.extra.device[i].bytes));
  }
  print_devices(raw, style);
  print_slots(raw, style);
}

Json to_json(const Raw& raw, const job::ViewedProcess& process) {
  Json devices = Json::array();
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    if (raw.all.view.device[i].key == 0) continue;
    const job::ViewedCompute& compute = process.compute[i];
    devices.push_back({{"device", i},
                       {"bytes", process.bytes[i]},
                       {"context_bytes", process.context_bytes[i]},
                       {"charge_word", process.charge[i]},
                       {"gpu_time_ns", compute.gpu_ns},
                       {"waited_ns", compute.waited_ns},
                       {"launches", compute.launches},
                       {"graph_launches", compute.graph_launches}});
  }
  return {{"slot", process.slot},
          {"pid", process.pid},
          {"uid", process.uid},
          {"state", state_of(raw, process)},
          {"start_ticks", process.start_ticks},
          {"pid_namespace", process.pid_namespace},
          {"devices", std::move(devices)}};
}

Json to_json(uint32_t index, const job::ViewedDevice& device) {
  return {{"device", index},
          {"key", fmt::format("{:016x}", device.key)},
          {"used", device.used},
          {"peak", device.peak},
          {"exported", device.exported},
          {"refusals", device.refusals},
          {"gpu_time_ns", device.gpu_ns},
          {"waited_ns", device.waited_ns},
          {"launches", device.launches},
          {"graph_launches", device.graph_launches},
          {"paid_until_ns", device.paid_until_ns},
          {"clock_ns", device.clock_ns}};
}

void print_json(const Raw& raw) {
  Json devices = Json::array(), slots = Json::array(), extra = Json::array();
  for (uint32_t i = 0; i < abi::kMaxDevices; i++) {
    if (raw.all.view.device[i].key != 0) devices.push_back(to_json(i, raw.all.view.device[i]));
  }
  for (const job::ViewedProcess& process : raw.all.processes) {
    slots.push_back(to_json(raw, process));
  }
  for (uint32_t i = 0; raw.has_extra && i < raw.extra.device_count; i++) {
    extra.push_back({{"key", fmt::format("{:016x}", raw.extra.device[i].key)},
                     {"bytes", raw.extra.device[i].bytes}});
  }
  const Json all = {{"region", raw.path},
                    {"version", abi::kRegionVersion},
                    {"size", abi::kRegionSize},
                    {"created_ns", raw.all.view.created_ns},
                    {"high_water", raw.all.view.high_water},
                    {"devices", std::move(devices)},
                    {"slots", std::move(slots)},
                    {"extra", std::move(extra)}};
  fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
}

constexpr const char* kFooter =
    R"(WHAT is the path of a region or the number of a job; without it, the slice that this process is in.
Slots are shown with the dead, until somebody takes them over; the times of a device have those of
all that ever were. PAID AHEAD is how far the share of GPU time is spent ahead of the clock; what is
negative was saved. With --json sizes are bytes and times ns.)";

}  // namespace

void add_region(CLI::App& app, int* status) {
  auto as_json = std::make_shared<bool>(false);
  auto what = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("region", "Show what stands in a slice's shared memory");
  command->add_option("WHAT", *what, "A region, or a job")->type_name("PATH|JOB");
  command->add_flag("--json", *as_json, "Print JSON");
  command->footer(kFooter);
  command->callback([what, as_json, status] {
    const Raw raw = read_raw(path_of(*what));
    *as_json ? print_json(raw) : print_text(raw);
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
