#include "cli/share_chart.h"

#include <gtest/gtest.h>

namespace softmig::cli {
namespace {

constexpr int64_t kMs = 1'000'000;

// A quarter of the GPU for two seconds, told every 100 ms, then nothing for one.
ShareTrack quarter() {
  ShareTrack track = {"A", 25, 1000, {}};
  for (int i = 1; i <= 20; i++) track.reports.push_back({1000 + i * 100 * kMs, i * 25e6});
  track.reports.push_back({1000 + 3000 * kMs, 20 * 25e6});
  return track;
}

TEST(ShareTrack, SharesBetweenAnyMoments) {
  const ShareTrack track = quarter();
  EXPECT_NEAR(track.percent(0, 2), 25, 1e-9);
  EXPECT_NEAR(track.percent(0.33, 0.71), 25, 1e-9);
  EXPECT_NEAR(track.percent(2, 3), 0, 1e-9);
  EXPECT_NEAR(track.percent(1, 3), 12.5, 1e-9);
  EXPECT_NEAR(track.percent(5, 6), 0, 1e-9);  // nothing was reported so late
}

TEST(ShareTrack, WithoutReportsThereIsNothing) {
  const ShareTrack track = {"A", 25, 1000, {}};
  EXPECT_EQ(track.percent(0, 1), 0);
}

TEST(ChartLine, BarOfTheLastSecondAndThePast) {
  EXPECT_EQ(chart_line(quarter(), 2, 0.25, 200, false),
            "A  25.0 %  [||||||||||                              ]  ::::::::");
  EXPECT_EQ(chart_line(quarter(), 3, 0.5, 200, false),
            "A   0.0 %  [                                        ]  ::::  ");
  EXPECT_EQ(chart_line(quarter(), 2, 0.25, 60, false).size(), 60u);
  EXPECT_NE(chart_line(quarter(), 2, 0.25, 200, true).find("▄▄▄▄"), std::string::npos);
}

TEST(ChartLine, AtTheVeryStart) {
  EXPECT_EQ(chart_line(quarter(), 0, 0.25, 200, false),
            "A   0.0 %  [                                        ]  ");
}

TEST(ShareSvg, HasALineForEachProgramAndEscapesNames) {
  const std::string svg = share_svg(
      "a <b> & c", {{"Native", 2, {quarter(), quarter()}}, {"Ours", 3, {quarter(), quarter()}}});
  size_t lines = 0;
  for (size_t at = 0; (at = svg.find("<polyline", at)) != std::string::npos; at++) lines++;
  EXPECT_EQ(lines, 4u);
  EXPECT_NE(svg.find("a &lt;b> &amp; c"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace softmig::cli
