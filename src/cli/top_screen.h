// What `softmig top` shows, as lines of text for a screen of any size. Pure: no terminal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/node_view.h"

namespace softmig::cli {

enum class Ink { kPlain, kBold, kDim, kGood, kWarn, kBad };

struct Span {
  std::string text;
  Ink ink = Ink::kPlain;
};
using ScreenLine = std::vector<Span>;

// What a slice did on a device between two looks. Negative: not known.
struct Rates {
  double gpu_percent = -1;     // of the GPU's time
  double waited_percent = -1;  // launches of all processes together, of the time between
  double launches = -1;        // a second, graphs among them
};
Rates rates_between(const NodeView& before, const NodeView& now, const SeenSlice& slice,
                    const SeenDevice& device);

// At most `height` lines of at most `width` characters. The slices are shown from number `first`
// on. Before the second look, `before` is the same as `now`.
std::vector<ScreenLine> top_screen(const NodeView& before, const NodeView& now, int width,
                                   int height, int first, const std::string& clock);

// Plain text of a line.
std::string line_text(const ScreenLine& line);

// `now` with the rates of every device: one sample of `softmig top --json`.
nlohmann::ordered_json sample_json(const NodeView& before, const NodeView& now);

}  // namespace softmig::cli
