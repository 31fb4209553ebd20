// Four programs that share a GPU, natively and with a quarter each: the last part of the demo.
#pragma once

#include <string>
#include <vector>

#include "cli/output.h"
#include "cli/share_chart.h"

namespace softmig::cli {

inline constexpr int kSharePrograms = 4;
inline constexpr double kNativeSeconds = 3, kSlicedSeconds = 8;
// The start of each part counts for no figure: contexts come to life, the first costs are learnt.
inline constexpr double kShareSkip = 0.5;

// Runs all four on the GPU with this UUID and shows them live at a terminal, as lines elsewhere.
// Two panels: native, and with SoftMig. Throws Failure.
std::vector<SharePanel> run_share_demo(const std::string& uuid, const Style& style);

}  // namespace softmig::cli
