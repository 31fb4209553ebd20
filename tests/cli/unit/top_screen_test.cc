#include "cli/top_screen.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/bytes.h"

namespace softmig::cli {
namespace {

using base::kGiB;
constexpr uint64_t kSecond = 1'000'000'000;

SeenSlice slice(const std::string& name, uint64_t gpu_ns) {
  SeenSlice slice;
  slice.name = name;
  slice.uid = 0;
  slice.region_status = job::ViewStatus::kOk;
  slice.slots = "0/4";
  SeenDevice device;
  device.index = 0;
  device.key = 7;
  device.memory_limit = 12 * kGiB;
  device.sm_limit = 25;
  device.used = 6 * kGiB;
  device.peak = 9 * kGiB;
  device.compute = {
      .gpu_ns = gpu_ns, .waited_ns = 2 * gpu_ns, .launches = 100, .graph_launches = 0};
  slice.devices.push_back(device);
  return slice;
}

NodeView view(uint64_t at, uint64_t gpu_ns, int slices = 1) {
  NodeView view;
  view.node = "n1";
  view.taken_ns = at;
  SeenGpu gpu;
  gpu.index = 0;
  gpu.name = "NVIDIA L40S";
  gpu.key = 7;
  gpu.memory = 48 * kGiB;
  gpu.used = 12 * kGiB;
  gpu.busy = 50;
  view.gpus.push_back(gpu);
  for (int i = 0; i < slices; i++) view.slices.push_back(slice(std::to_string(4711 + i), gpu_ns));
  return view;
}

std::vector<std::string> lines_of(const NodeView& before, const NodeView& now, int width,
                                  int height, int first = 0) {
  std::vector<std::string> lines;
  for (const ScreenLine& line : top_screen(before, now, width, height, first, "12:00:00")) {
    lines.push_back(line_text(line));
  }
  return lines;
}

TEST(Rates, AreThoseBetweenTwoLooks) {
  const NodeView before = view(kSecond, 0), now = view(3 * kSecond, kSecond / 2);
  const Rates rates = rates_between(before, now, now.slices[0], now.slices[0].devices[0]);
  EXPECT_DOUBLE_EQ(rates.gpu_percent, 25);
  EXPECT_DOUBLE_EQ(rates.waited_percent, 50);
  EXPECT_DOUBLE_EQ(rates.launches, 0);
}

TEST(Rates, AreNotKnownOfTheFirstLookOrOfANewSlice) {
  const NodeView now = view(kSecond, 5);
  EXPECT_LT(rates_between(now, now, now.slices[0], now.slices[0].devices[0]).gpu_percent, 0);
  NodeView before = view(0, 0);
  before.slices.clear();
  EXPECT_LT(rates_between(before, now, now.slices[0], now.slices[0].devices[0]).gpu_percent, 0);
}

TEST(Rates, ACounterThatFellIsNoNegativeRate) {
  const NodeView before = view(0, 9 * kSecond), now = view(kSecond, 1);
  EXPECT_EQ(rates_between(before, now, now.slices[0], now.slices[0].devices[0]).gpu_percent, 0);
}

TEST(TopScreen, BarsAreFullAtTheLimit) {
  const auto lines = lines_of(view(0, 0), view(kSecond, kSecond / 4), 80, 24);
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_TRUE(lines[0].starts_with("softmig top  n1  1 GPU, 1 slice"));
  EXPECT_TRUE(lines[0].ends_with("12:00:00"));
  EXPECT_EQ(lines[1].substr(0, 18), "GPU 0  NVIDIA L40S");
  EXPECT_NE(lines[2].find("12.0/48.0 GiB"), std::string::npos);
  EXPECT_NE(lines[2].find("50 %"), std::string::npos);
  EXPECT_NE(lines[5].find("6.0/12.0 GiB"), std::string::npos);
  // Half of the memory, all of the time.
  const auto bars = [&](const std::string& label) {
    const size_t end = lines[5].find(label), begin = lines[5].rfind('[', end);
    return std::count(lines[5].begin() + static_cast<long>(begin),
                      lines[5].begin() + static_cast<long>(end), '|');
  };
  EXPECT_EQ(bars("]"), 13);  // up to the first end of a bar
  EXPECT_NE(lines[5].find("|25/25 %]"), std::string::npos);
}

TEST(TopScreen, KeepsToEverySize) {
  const NodeView before = view(0, 0, 40), now = view(kSecond, kSecond / 4, 40);
  for (int width = 40; width <= 250; width += 7) {
    for (int height = 0; height <= 60; height += 5) {
      const auto lines = lines_of(before, now, width, height);
      EXPECT_LE(lines.size(), static_cast<size_t>(height));
      for (size_t i = 0; i < lines.size() && width >= 80; i++) {
        EXPECT_LE(lines[i].size(), static_cast<size_t>(width)) << lines[i];
      }
    }
  }
}

TEST(TopScreen, SaysWhatIsBelowAndMovesThere) {
  const NodeView now = view(0, 0, 40);
  auto lines = lines_of(now, now, 80, 10);
  EXPECT_EQ(lines[5].substr(0, 4), "4711");
  EXPECT_EQ(lines.back(), "... 36 more below");
  lines = lines_of(now, now, 80, 10, 39);
  EXPECT_EQ(lines.back().substr(0, 4), "4750");
  lines = lines_of(now, now, 80, 10, 1000);
  EXPECT_EQ(lines.back().substr(0, 4), "4750");
}

TEST(TopScreen, MoreColumnsWhereThereIsRoom) {
  const NodeView now = view(0, 0);
  EXPECT_EQ(lines_of(now, now, 117, 24)[4].find("WAITED"), std::string::npos);
  EXPECT_NE(lines_of(now, now, 118, 24)[4].find("WAITED"), std::string::npos);
  EXPECT_NE(lines_of(now, now, 150, 24)[5].find("0/4"), std::string::npos);
}

TEST(TopScreen, AClosedSliceAndOneThatCannotBeRead) {
  NodeView now = view(0, 0, 2);
  now.slices[0].error = "bad";
  now.slices[1].region_status = job::ViewStatus::kForeign;
  const auto lines = lines_of(now, now, 80, 24);
  EXPECT_NE(lines[5].find("closed]"), std::string::npos);
  EXPECT_NE(lines[6].find("cannot be read]"), std::string::npos);
}

TEST(TopScreen, NoGpuAndNoSlice) {
  NodeView now;
  now.trouble = "NVML is not there";
  const auto lines = lines_of(now, now, 80, 24);
  EXPECT_EQ(lines[1], "NVML is not there");
  EXPECT_EQ(lines.back(), "No slices to be seen.");
}

TEST(Samples, HaveRatesAsNullAtFirst) {
  const NodeView before = view(0, 0), now = view(kSecond, kSecond / 4);
  const auto first = sample_json(before, before), second = sample_json(before, now);
  EXPECT_TRUE(first["slices"][0]["devices"][0]["gpu_percent"].is_null());
  EXPECT_EQ(second["slices"][0]["devices"][0]["gpu_percent"], 25);
  EXPECT_EQ(second["gpus"][0]["busy_percent"], 50);
}

}  // namespace
}  // namespace softmig::cli
