#include "cli/top_screen.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "base/bytes.h"

namespace softmig::cli {
namespace {

constexpr int kLeastWidth = 40;
constexpr int kNameWidth = 12, kUserWidth = 9, kGpuWidth = 4, kProcessWidth = 5;
constexpr int kFixedWidth = kNameWidth + kUserWidth + kGpuWidth + kProcessWidth;
constexpr int kLeastBar = 12;
// Columns that come with width.
constexpr int kPeakWidth = 11, kWaitedWidth = 9, kLaunchesWidth = 11, kSlotsWidth = 10,
              kRefusedWidth = 9;
constexpr int kWide = 118, kVeryWide = 150;
constexpr double kNearlyFull = 0.9;

std::string cut(const std::string& text, int width) {
  return text.substr(0, static_cast<size_t>(std::max(0, width)));
}

std::string left(const std::string& text, int width) {
  return fmt::format("{:<{}}", cut(text, width - 1), width);
}

std::string right(const std::string& text, int width) {
  return fmt::format("{:>{}}", cut(text, width - 1), width);
}

std::string gib(uint64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / base::kGiB);
}

// "[||||      text]" of exactly `width`, filled from 0 to 1.
void add_bar(ScreenLine* line, double part, const std::string& text, int width, Ink ink) {
  const int inside = width - 2;
  if (inside < 1) return;
  const std::string label = cut(text, inside);
  std::string body(static_cast<size_t>(inside), ' ');
  const long filled = std::lround(std::clamp(part, 0.0, 1.0) * inside);
  std::fill_n(body.begin(), filled, '|');
  std::copy(label.begin(), label.end(), body.end() - static_cast<long>(label.size()));
  line->push_back({"[", Ink::kBold});
  line->push_back({body.substr(0, static_cast<size_t>(filled)), ink});
  line->push_back({body.substr(static_cast<size_t>(filled)), Ink::kPlain});
  line->push_back({"]", Ink::kBold});
}

Ink ink_of(double part) {
  if (part >= 1) return Ink::kBad;
  return part >= kNearlyFull ? Ink::kWarn : Ink::kGood;
}

double part_of(double value, double whole) { return whole <= 0 ? 0 : value / whole; }

class Screen {
 public:
  Screen(const NodeView& before, const NodeView& now, int width, int height)
      : before_(before), now_(now), width_(std::max(width, kLeastWidth)), height_(height) {
    const int extra = (width_ >= kWide ? kPeakWidth + kWaitedWidth + kLaunchesWidth : 0) +
                      (width_ >= kVeryWide ? kSlotsWidth + kRefusedWidth : 0);
    const int bars = std::max(2 * kLeastBar, width_ - kFixedWidth - extra - 2);
    memory_width_ = bars * 3 / 5;
    time_width_ = bars - memory_width_;
  }

  std::vector<ScreenLine> lines(int first, const std::string& clock) {
    add_head(clock);
    for (const SeenGpu& gpu : now_.gpus) add_gpu(gpu);
    if (now_.gpus.empty()) add({{now_.trouble, Ink::kDim}});
    add({});
    add_slices(first);
    return std::move(lines_);
  }

 private:
  void add(ScreenLine line) {
    if (static_cast<int>(lines_.size()) < height_) lines_.push_back(std::move(line));
  }

  void add_head(const std::string& clock) {
    const std::string title = "softmig top";
    std::string rest = fmt::format("  {}  {} GPU{}, {} slice{}", now_.node, now_.gpus.size(),
                                   now_.gpus.size() == 1 ? "" : "s", now_.slices.size(),
                                   now_.slices.size() == 1 ? "" : "s");
    if (width_ >= kWide && !now_.driver.empty()) rest += "  driver " + now_.driver;
    const std::string end = "  q quits  " + clock;
    const int room = width_ - static_cast<int>(title.size() + end.size());
    add({{title, Ink::kBold},
         {fmt::format("{:<{}}", cut(rest, room), std::max(0, room))},
         {end, Ink::kDim}});
  }

  void add_gpu(const SeenGpu& gpu) {
    add({{left(fmt::format("GPU {}  {}", gpu.index, gpu.name), width_), Ink::kBold}});
    const int bars = width_ - 18;
    const int memory = bars * 3 / 5;
    ScreenLine line = {{"  memory ", Ink::kDim}};
    const double used = part_of(static_cast<double>(gpu.used), static_cast<double>(gpu.memory));
    add_bar(&line, used,
            gpu.memory == 0 ? "not told" : fmt::format("{}/{} GiB", gib(gpu.used), gib(gpu.memory)),
            memory, ink_of(used));
    line.push_back({"  busy ", Ink::kDim});
    const double busy = gpu.busy.value_or(0) / 100.0;
    add_bar(&line, busy, gpu.busy ? fmt::format("{} %", *gpu.busy) : "not told", bars - memory,
            Ink::kGood);
    add(line);
  }

  void add_slices(int first) {
    std::vector<ScreenLine> rows;
    for (const SeenSlice& slice : now_.slices) {
      for (const SeenDevice& device : slice.devices) rows.push_back(row(slice, device));
    }
    if (rows.empty()) return add({{"No slices to be seen.", Ink::kDim}});
    add({{heading(), Ink::kBold}});
    const int count = static_cast<int>(rows.size());
    first = std::clamp(first, 0, count - 1);
    const int room = height_ - static_cast<int>(lines_.size());
    const bool cut_off = count - first > room;
    const int shown = cut_off ? std::max(0, room - 1) : count - first;
    for (int i = first; i < first + shown; i++) add(std::move(rows[static_cast<size_t>(i)]));
    if (cut_off) add({{fmt::format("... {} more below", count - first - shown), Ink::kDim}});
  }

  std::string heading() const {
    std::string text = left("SLICE", kNameWidth) + left("USER", kUserWidth) +
                       left("GPU", kGpuWidth) + left("MEMORY OF LIMIT", memory_width_ + 1) +
                       left("TIME OF LIMIT", time_width_ + 1) + right("PROC", kProcessWidth);
    if (width_ >= kWide) {
      text += right("PEAK", kPeakWidth) + right("WAITED", kWaitedWidth) +
              right("LAUNCHES", kLaunchesWidth);
    }
    if (width_ >= kVeryWide) text += right("REFUSED", kRefusedWidth) + "  " + "SLOTS";
    return cut(text, width_);
  }

  ScreenLine row(const SeenSlice& slice, const SeenDevice& device) const {
    const std::string user = slice.uid ? user_name(*slice.uid) : "?";
    ScreenLine line = {{left(slice.name, kNameWidth), Ink::kBold},
                       {left(user, kUserWidth)},
                       {left(device.index < 0 ? "?" : std::to_string(device.index), kGpuWidth)}};
    add_memory(slice, device, &line);
    line.push_back({" "});
    const Rates rates = rates_between(before_, now_, slice, device);
    add_time(device, rates, &line);
    line.push_back({" "});
    line.push_back({right(std::to_string(device.processes.size()), kProcessWidth)});
    if (width_ >= kWide) add_wide(device, rates, &line);
    if (width_ >= kVeryWide) {
      line.push_back({right(std::to_string(device.refusals), kRefusedWidth),
                      device.refusals != 0 ? Ink::kWarn : Ink::kPlain});
      line.push_back({"  " + left(slice.slots.empty() ? "-" : slice.slots, kSlotsWidth - 2)});
    }
    return line;
  }

  void add_memory(const SeenSlice& slice, const SeenDevice& device, ScreenLine* line) const {
    if (!slice.error.empty()) return add_bar(line, 0, "closed", memory_width_, Ink::kBad);
    if (slice.region_status == job::ViewStatus::kForbidden ||
        slice.region_status == job::ViewStatus::kForeign) {
      return add_bar(line, 0, "cannot be read", memory_width_, Ink::kBad);
    }
    const uint64_t limit = device.memory_limit != 0 ? device.memory_limit : device.card;
    const double part = part_of(static_cast<double>(device.used), static_cast<double>(limit));
    const std::string text = device.memory_limit == 0 ? fmt::format("{} GiB", gib(device.used))
                                                      : fmt::format("{}/{} GiB", gib(device.used),
                                                                    gib(device.memory_limit));
    add_bar(line, part, text, memory_width_, ink_of(part));
  }

  void add_time(const SeenDevice& device, const Rates& rates, ScreenLine* line) const {
    if (device.sm_limit == 0) return add_bar(line, 0, "no limit", time_width_, Ink::kPlain);
    const auto limit = static_cast<double>(device.sm_limit);
    const double share = std::max(0.0, rates.gpu_percent);
    // A job at its limit is as it should be.
    add_bar(line, share / limit, fmt::format("{:.0f}/{} %", share, device.sm_limit), time_width_,
            Ink::kGood);
  }

  static void add_wide(const SeenDevice& device, const Rates& rates, ScreenLine* line) {
    const bool timed = device.sm_limit != 0;
    line->push_back({right(gib(device.peak) + " GiB", kPeakWidth)});
    line->push_back({right(
        timed ? fmt::format("{:.0f} %", std::max(0.0, rates.waited_percent)) : "-", kWaitedWidth)});
    line->push_back({right(timed ? fmt::format("{:.0f}/s", std::max(0.0, rates.launches)) : "-",
                           kLaunchesWidth)});
  }

  const NodeView& before_;
  const NodeView& now_;
  const int width_, height_;
  int memory_width_ = 0, time_width_ = 0;
  std::vector<ScreenLine> lines_;
};

const SeenDevice* same_device(const NodeView& view, const SeenSlice& slice,
                              const SeenDevice& device) {
  for (const SeenSlice& other : view.slices) {
    if (other.name != slice.name || other.region != slice.region) continue;
    for (const SeenDevice& found : other.devices) {
      if (found.key == device.key) return &found;
    }
  }
  return nullptr;
}

// A region may have been made anew, or be anything at all.
double grown(uint64_t before, uint64_t now) {
  return now > before ? static_cast<double>(now - before) : 0;
}

nlohmann::ordered_json known(double value) {
  return value < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(value);
}

}  // namespace

Rates rates_between(const NodeView& before, const NodeView& now, const SeenSlice& slice,
                    const SeenDevice& device) {
  const SeenDevice* old = same_device(before, slice, device);
  if (old == nullptr || now.taken_ns <= before.taken_ns || device.sm_limit == 0) return {};
  const auto time = static_cast<double>(now.taken_ns - before.taken_ns);
  const job::ViewedCompute &a = old->compute, &b = device.compute;
  return {100 * grown(a.gpu_ns, b.gpu_ns) / time, 100 * grown(a.waited_ns, b.waited_ns) / time,
          1e9 * (grown(a.launches, b.launches) + grown(a.graph_launches, b.graph_launches)) / time};
}

std::vector<ScreenLine> top_screen(const NodeView& before, const NodeView& now, int width,
                                   int height, int first, const std::string& clock) {
  return Screen(before, now, width, height).lines(first, clock);
}

std::string line_text(const ScreenLine& line) {
  std::string text;
  for (const Span& span : line) text += span.text;
  return text;
}

nlohmann::ordered_json sample_json(const NodeView& before, const NodeView& now) {
  nlohmann::ordered_json json = to_json(now);
  for (size_t s = 0; s < now.slices.size(); s++) {
    const SeenSlice& slice = now.slices[s];
    for (size_t d = 0; d < slice.devices.size(); d++) {
      const Rates rates = rates_between(before, now, slice, slice.devices[d]);
      nlohmann::ordered_json& device = json["slices"][s]["devices"][d];
      device["gpu_percent"] = known(rates.gpu_percent);
      device["waited_percent"] = known(rates.waited_percent);
      device["launches_per_second"] = known(rates.launches);
    }
  }
  return json;
}

}  // namespace softmig::cli
