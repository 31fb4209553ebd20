// softmig status: this node's GPUs and the slices on them.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/node_view.h"
#include "cli/output.h"

namespace softmig::cli {
namespace {

std::string index_text(int index) { return index < 0 ? "?" : std::to_string(index); }

int slices_on(const NodeView& view, const SeenGpu& gpu) {
  int count = 0;
  for (const SeenSlice& slice : view.slices) {
    count += static_cast<int>(
        std::count_if(slice.devices.begin(), slice.devices.end(),
                      [&](const SeenDevice& device) { return device.key == gpu.key; }));
  }
  return count;
}

void print_gpus(const NodeView& view, const Style& style) {
  using enum Table::Align;
  Table table({kLeft, kLeft, kRight, kRight, kRight, kRight});
  table.add({"GPU", "NAME", "MEMORY", "USED", "BUSY", "SLICES"});
  for (const SeenGpu& gpu : view.gpus) {
    table.add({index_text(gpu.index), gpu.name, gpu.memory == 0 ? "?" : size_text(gpu.memory),
               gpu.memory == 0 ? "?" : size_text(gpu.used),
               gpu.busy ? fmt::format("{} %", *gpu.busy) : "?",
               std::to_string(slices_on(view, gpu))});
  }
  fmt::print("\n{}", table.text(style));
}

void print_slices(const NodeView& view, const Style& style) {
  using enum Table::Align;
  Table table({kLeft, kLeft, kLeft, kRight, kRight, kRight, kRight, kLeft, kRight});
  table.add({"SLICE", "USER", "GPU", "LIMIT", "USED", "PEAK", "TIME", "SLOTS", "PROCESSES"});
  for (const SeenSlice& slice : view.slices) {
    for (const SeenDevice& device : slice.devices) {
      const bool read = slice.region_status == job::ViewStatus::kOk;
      const std::string limit =
          device.memory_limit == 0 ? "no limit" : size_text(device.memory_limit);
      table.add({slice.name, slice.uid ? user_name(*slice.uid) : "?", index_text(device.index),
                 slice.error.empty() ? limit : "closed", read ? size_text(device.used) : "-",
                 read ? size_text(device.peak) : "-",
                 device.sm_limit == 0 ? "no limit" : fmt::format("{} %", device.sm_limit),
                 slice.slots.empty() ? "-" : slice.slots,
                 read ? std::to_string(device.processes.size()) : "-"});
    }
  }
  fmt::print("\n{}", table.text(style));
}

void print_text(const NodeView& view) {
  const Style style(stdout);
  fmt::print("{}    {}\n", style.bold("node"), view.node);
  fmt::print("{}  {}\n", style.bold("driver"), view.driver.empty() ? view.trouble : view.driver);
  if (!view.gpus.empty()) print_gpus(view, style);
  if (view.slices.empty()) {
    fmt::print("\nNo slices{}.\n", geteuid() == 0 ? " here" : " of yours here");
    return;
  }
  print_slices(view, style);
  for (const SeenSlice& slice : view.slices) {
    if (slice.error.empty()) continue;
    fmt::print("{} {}: nothing can be allocated: {}\n", style.bad("closed"), slice.name,
               printable(slice.error));
  }
}

constexpr const char* kFooter =
    R"(SLICE is the number of a job, or run.XXXXXX for a slice of softmig run in which a program lives.
USED and PEAK are what the slice holds and held at most, BUSY is the driver's own figure for the
card. Root sees all slices of this node, anybody else his own.
With --json all sizes are bytes and times ns; null means none or not known.)";

}  // namespace

void add_status(CLI::App& app, int* status) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("status", "Show this node's GPUs and the slices on them");
  command->add_flag("--json", *as_json, "Print JSON");
  command->footer(kFooter);
  command->callback([as_json, status] {
    const NodeView view = NodeWatch().look();
    if (*as_json) {
      fmt::print("{}\n",
                 to_json(view).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    } else {
      print_text(view);
    }
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
