#include "state/settings.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "state/layout.h"

namespace softmig::sim {
namespace {

constexpr Model kModels[] = {
    {"h100", "NVIDIA H100 80GB HBM3", 0x233010DE, 132, 2048, 9, 0, 1980000, 2619000, 5120,
     50 * 1024 * 1024, 233472},
    {"a100", "NVIDIA A100-SXM4-80GB", 0x20B210DE, 108, 2048, 8, 0, 1410000, 1593000, 5120,
     40 * 1024 * 1024, 167936},
    {"l40s", "NVIDIA L40S", 0x26B910DE, 142, 1536, 8, 9, 2520000, 9001000, 384, 96 * 1024 * 1024,
     102400},
    {"t4", "Tesla T4", 0x1EB810DE, 40, 1024, 7, 5, 1590000, 5001000, 256, 4 * 1024 * 1024, 65536},
};

constexpr uint64_t kMostTimeUs = 3'600'000'000;

bool parse_number(std::string_view text, uint64_t* out) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *out);
  return !text.empty() && result.ec == std::errc() && result.ptr == end;
}

bool parse_size(std::string_view text, uint64_t* out) {
  if (text.empty()) return false;
  uint64_t unit = 1;
  switch (text.back()) {
    case 'K':
      unit = kKiB;
      break;
    case 'M':
      unit = kMiB;
      break;
    case 'G':
      unit = kGiB;
      break;
    default:
      break;
  }
  if (unit != 1) text.remove_suffix(1);
  if (!parse_number(text, out) || *out > ~uint64_t{0} / unit) return false;
  *out *= unit;
  return true;
}

// Microseconds, to nanoseconds.
bool parse_time(std::string_view text, uint64_t* out) {
  if (!parse_number(text, out) || *out > kMostTimeUs) return false;
  *out *= 1000;
  return true;
}

std::string_view cut(std::string_view* text, char separator) {
  const size_t at = text->find(separator);
  const std::string_view part = text->substr(0, at);
  *text = at == std::string_view::npos ? std::string_view() : text->substr(at + 1);
  return part;
}

bool parse_group(std::string_view text, Settings* out) {
  const std::string_view model =
      text.find(':') == text.npos ? "h100" : text.substr(text.find(':') + 1);
  std::string_view size = text.substr(0, text.find(':'));
  uint64_t count = 0, memory = 0;
  const Model* found = find_model(model);
  if (found == nullptr || !parse_number(cut(&size, 'x'), &count) || !parse_size(size, &memory)) {
    return false;
  }
  const bool sane = count >= 1 && count <= kMaxDevices && memory >= kGiB && memory % kPage == 0;
  if (!sane || out->cards.size() + count > kMaxDevices) return false;
  out->cards.insert(out->cards.end(), count, {found, memory});
  return true;
}

bool parse_option(std::string_view text, Settings* out) {
  const std::string_view key = cut(&text, '=');
  const std::pair<std::string_view, uint64_t*> times[] = {{"kernel", &out->kernel_ns},
                                                          {"slice", &out->slice_ns},
                                                          {"switch", &out->switch_ns},
                                                          {"refill", &out->refill_ns}};
  for (const auto& [name, value] : times) {
    if (name == key) return parse_time(text, value) && out->slice_ns != 0;
  }
  if (key == "accounting") return parse_number(text, &out->accounting);
  if (key == "unknown") return parse_number(text, &out->unknown);
  const struct {
    std::string_view key;
    uint64_t* value;
  } sizes[] = {{"context", &out->context_listed},
               {"overhead", &out->context_unlisted},
               {"base", &out->base},
               {"reserved", &out->reserved},
               {"managed", &out->managed}};
  const auto* row = std::find_if(std::begin(sizes), std::end(sizes),
                                 [&](const auto& candidate) { return candidate.key == key; });
  return row != std::end(sizes) && parse_size(text, row->value);
}

}  // namespace

const Model* find_model(std::string_view key) {
  for (const Model& model : kModels) {
    if (model.key == key) return &model;
  }
  return nullptr;
}

bool parse_settings(std::string_view text, Settings* out, std::string* error) {
  *out = Settings();
  std::string_view groups = cut(&text, ',');
  while (!groups.empty()) {
    const std::string_view group = cut(&groups, '+');
    if (parse_group(group, out)) continue;
    *error = "not a group of cards (COUNTxMEMORY[:MODEL]): " + std::string(group);
    return false;
  }
  while (!text.empty()) {
    const std::string_view option = cut(&text, ',');
    if (parse_option(option, out)) continue;
    *error = "not a setting: " + std::string(option);
    return false;
  }
  if (out->cards.empty()) *error = "no cards";
  return !out->cards.empty();
}

}  // namespace softmig::sim
