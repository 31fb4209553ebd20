#include "cli/advice.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "base/bytes.h"
#include "cli/region_look.h"

namespace softmig::cli {
namespace {

// A peak of another run may be a little higher, and a job is not as busy all the time.
constexpr double kMemoryMargin = 1.05, kTimeMargin = 1.5;
// Launches that waited longer, both of the job's length and in ns, are a reason to want more.
constexpr double kMuchWait = 0.1;
constexpr uint64_t kLongWaitNs = 1'000'000'000, kNoWaitNs = 1'000'000;

struct Use {
  bool waited = false;  // much
  double busy = 0;      // of the job's length
};

Use use_of(const DeviceRecord& device, uint64_t length_ns) {
  const auto length = static_cast<double>(std::max<uint64_t>(1, length_ns));
  const uint64_t waited = device.compute.waited_ns;
  return {waited >= kLongWaitNs && static_cast<double>(waited) >= kMuchWait * length,
          static_cast<double>(device.compute.gpu_ns) / length};
}

// Shards of the slice; with only a share of time to go by, those of that share.
uint64_t shards_of(const DeviceRecord& device, uint64_t of) {
  if (device.shards != 0) return device.shards;
  return (device.sm_limit * of + 50) / 100;
}

bool fits(const DeviceRecord& device, const Use& use, uint64_t now, uint64_t shards, uint64_t of) {
  const double part = static_cast<double>(shards) / static_cast<double>(now);
  const double memory = static_cast<double>(device.memory_limit) * part;
  if (static_cast<double>(device.peak) * kMemoryMargin > memory) return false;
  const bool timed = device.sm_limit != 0;
  return !timed || use.busy * kTimeMargin <= static_cast<double>(shards) / static_cast<double>(of);
}

std::string slice_name(const std::string& type, uint64_t shards, uint64_t of) {
  if (shards == of) return type.empty() ? "a whole GPU" : "gpu:" + type + ":1, the whole GPU";
  const std::string part = std::to_string(of / shards);
  return type.empty() ? "1/" + part + " of a GPU" : type + "." + part;
}

std::string memory_words(const DeviceRecord& device) {
  std::string text = "peaked at " + short_size(device.peak);
  if (device.memory_limit != 0) text += " of " + short_size(device.memory_limit);
  if (device.refusals != 0) {
    text += fmt::format(", was refused memory {} time{}", device.refusals,
                        device.refusals == 1 ? "" : "s");
  }
  return text;
}

std::string time_words(const DeviceRecord& device, const Use& use) {
  if (device.sm_limit == 0) return "";
  if (device.compute.waited_ns < kNoWaitNs) return " and never waited";
  if (!use.waited) return " and hardly waited";
  return fmt::format(" and waited {} for GPU time", duration_text(device.compute.waited_ns));
}

// A size that people would type: the peak and a tenth, in halves of a GiB.
std::string run_words(const DeviceRecord& device) {
  const uint64_t wanted =
      base::round_up(device.peak + device.peak / 10, base::kGiB / 2) / base::kMiB;
  if (device.memory_limit != 0 && wanted * base::kMiB >= device.memory_limit) {
    return "the slice fits";
  }
  return fmt::format("--memory {}M would do", wanted);
}

std::string shard_words(const DeviceRecord& device, const Use& use, uint64_t of) {
  const uint64_t now = shards_of(device, of);
  const std::string type = type_of(device.name);
  if (now == 0 || now > of) return "the slice fits";
  const bool wants_memory = device.refusals != 0;
  if (wants_memory || use.waited) {
    for (uint64_t shards = now + 1; shards <= of; shards++) {
      if (of % shards != 0) continue;
      const std::string name = slice_name(type, shards, of);
      return wants_memory ? "ask for " + name : name + " would be faster";
    }
    return "there is no larger slice";
  }
  for (uint64_t shards = 1; shards < now; shards++) {
    if (of % shards == 0 && fits(device, use, now, shards, of)) {
      return "ask for " + slice_name(type, shards, of);
    }
  }
  return "the slice fits";
}

}  // namespace

std::string advice(const DeviceRecord& device, bool of_job, uint64_t length_ns,
                   uint64_t site_shards) {
  const job::ViewedCompute& compute = device.compute;
  if (device.peak == 0 && compute.launches + compute.graph_launches == 0) {
    return "never used the GPU: ask for none";
  }
  const Use use = use_of(device, length_ns);
  const std::string facts = memory_words(device) + time_words(device, use) + ": ";
  const uint64_t of = device.of != 0 ? device.of : site_shards;
  if (of_job) return facts + (of == 0 ? "the slice fits" : shard_words(device, use, of));
  if (device.refusals != 0) return facts + "give it more";
  if (use.waited) return facts + "a larger --sm would be faster";
  return facts + run_words(device);
}

std::string type_of(const std::string& name) {
  std::istringstream words(name);
  for (std::string word; words >> word;) {
    const bool digits =
        std::any_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (!digits) continue;
    word = word.substr(0, word.find('-'));
    std::transform(word.begin(), word.end(), word.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return word;
  }
  return {};
}

std::string short_size(uint64_t bytes) {
  char text[64] = {};
  base::Text to(text);
  base::add_size(to, bytes);
  return text;
}

}  // namespace softmig::cli
