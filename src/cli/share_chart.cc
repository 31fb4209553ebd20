#include "cli/share_chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace softmig::cli {
namespace {

constexpr double kSecond = 1e9;
constexpr double kStep = 0.25;  // seconds between points of the plot
constexpr int kBarWidth = 40;   // characters for the whole GPU
constexpr const char* kLevels[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr const char* kPlainLevels[] = {" ", ".", ".", ":", ":", "|", "|", "#", "#"};
constexpr int kTop = 8;
constexpr double kFullScale = 50;  // percent of the highest level

constexpr int kWidth = 760, kPanel = 190, kLeft = 56, kHead = 56, kPlotHeight = 140;
constexpr const char* kColors[] = {"#4269d0", "#efb118", "#ff725c", "#3ca951"};

std::string text_at(double x, double y, const std::string& text, int size = 12,
                    const char* anchor = "start", const char* color = "#333") {
  return fmt::format(
      R"(<text x="{:.1f}" y="{:.1f}" font-size="{}" text-anchor="{}" fill="{}">{}</text>)", x, y,
      size, anchor, color, text);
}

std::string line_between(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" {}/>)", x1, y1, x2,
                     y2, style);
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += c;
    }
  }
  return result;
}

class Panel {
 public:
  Panel(const SharePanel& panel, int number)
      : panel_(panel), top_(kHead + static_cast<double>(number) * kPanel) {
    for (const ShareTrack& track : panel.tracks) highest_ = std::max(highest_, 1.5 * track.limit);
  }

  std::string svg() const {
    std::string text = text_at(kLeft, top_ - 8, escaped(panel_.title), 13) + "\n";
    for (int percent = 0; percent <= static_cast<int>(highest_); percent += 10) {
      text += line_between(kLeft, y(percent), kWidth - 20, y(percent), R"(stroke="#e4e4e4")");
      text += text_at(kLeft - 6, y(percent) + 4, fmt::format("{} %", percent), 11, "end") + "\n";
    }
    for (int second = 0; second <= static_cast<int>(panel_.seconds); second++) {
      text += text_at(x(second), y(0) + 15, fmt::format("{} s", second), 11, "middle") + "\n";
    }
    for (size_t i = 0; i < panel_.tracks.size(); i++) text += track(i);
    return text;
  }

 private:
  double x(double second) const {
    return kLeft + (kWidth - kLeft - 20) * second / std::max(1.0, panel_.seconds);
  }
  double y(double percent) const {
    return top_ + kPlotHeight * (1 - std::min(percent, highest_) / highest_);
  }

  std::string track(size_t number) const {
    const ShareTrack& track = panel_.tracks[number];
    std::string points, text;
    const long steps = std::lround(panel_.seconds / kStep);
    for (long i = 1; i <= steps; i++) {
      const double at = static_cast<double>(i) * kStep;
      points += fmt::format("{:.1f},{:.1f} ", x(at - kStep / 2), y(track.percent(at - kStep, at)));
    }
    if (track.limit > 0) {
      text = line_between(x(0), y(track.limit), x(panel_.seconds), y(track.limit),
                          R"(stroke="#777" stroke-dasharray="4 3")");
    }
    return text +
           fmt::format(R"(<polyline fill="none" stroke-width="1.8" stroke="{}" points="{}"/>)",
                       kColors[number % std::size(kColors)], points) +
           "\n";
  }

  const SharePanel& panel_;
  const double top_;
  double highest_ = 40;
};

}  // namespace

double ShareTrack::done_at(double ns) const {
  double before_ns = 0, before_done = 0;
  for (const WorkReport& report : reports) {
    const auto at = static_cast<double>(report.at_ns - start_ns);
    if (at >= ns) {
      const double part = at > before_ns ? (ns - before_ns) / (at - before_ns) : 1;
      return before_done + (report.done_ns - before_done) * part;
    }
    before_ns = at;
    before_done = report.done_ns;
  }
  return before_done;
}

double ShareTrack::percent(double from, double to) const {
  return 100 * (done_at(to * kSecond) - done_at(from * kSecond)) / ((to - from) * kSecond);
}

std::string chart_line(const ShareTrack& track, double now, double step, int width, bool utf8) {
  const double share = now <= 0 ? 0 : track.percent(std::max(0.0, now - 1), now);
  const long filled = std::clamp(std::lround(share * kBarWidth / 100), 0L, long{kBarWidth});
  std::string bar(static_cast<size_t>(filled), '|');
  bar.resize(kBarWidth, ' ');
  std::string line = fmt::format("{} {:5.1f} %  [{}]  ", track.name, share, bar);
  const int room = width - static_cast<int>(line.size());
  const int steps = static_cast<int>(now / step + 1e-6);
  for (int i = std::max(0, steps - room); i < steps; i++) {
    const double part = track.percent(i * step, (i + 1) * step);
    const long level = std::clamp(std::lround(part * kTop / kFullScale), 0L, long{kTop});
    line += utf8 ? kLevels[level] : kPlainLevels[level];
  }
  return line;
}

std::string share_svg(const std::string& title, const std::vector<SharePanel>& panels) {
  const int height = kHead + static_cast<int>(panels.size()) * kPanel;
  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" )"
      R"(font-family="sans-serif">)"
      "\n"
      R"(<rect width="{0}" height="{1}" fill="white"/>)"
      "\n",
      kWidth, height);
  svg += text_at(kLeft, 20, escaped(title), 15) + "\n";
  for (size_t i = 0; !panels.empty() && i < panels[0].tracks.size(); i++) {
    svg += text_at(kWidth - 150 + 30.0 * static_cast<double>(i), 20, panels[0].tracks[i].name, 13,
                   "start", kColors[i % std::size(kColors)]) +
           "\n";
  }
  for (size_t i = 0; i < panels.size(); i++) svg += Panel(panels[i], static_cast<int>(i)).svg();
  return svg + "</svg>\n";
}

}  // namespace softmig::cli
