// The shares of several programs of one GPU over time: as figures, as lines of a terminal, as SVG.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/share_worker.h"

namespace softmig::cli {

// What one program had of the GPU.
struct ShareTrack {
  std::string name;
  double limit = 0;  // percent, 0: none
  int64_t start_ns = 0;
  std::vector<WorkReport> reports;

  // GPU time of the work done from the start to `ns` after it; between reports on a line.
  double done_at(double ns) const;
  // Percent of the GPU between two moments, in seconds after the start.
  double percent(double from, double to) const;
};

// "A   24.9 %  [|||||     ]  __..--" : the last second against 100 %, and the past in steps of
// `step` seconds. `now` is in seconds after the start.
std::string chart_line(const ShareTrack& track, double now, double step, int width, bool utf8);

struct SharePanel {
  std::string title;
  double seconds = 0;
  std::vector<ShareTrack> tracks;
};
std::string share_svg(const std::string& title, const std::vector<SharePanel>& panels);

}  // namespace softmig::cli
