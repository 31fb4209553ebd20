#include "policy/settings.h"

#include <charconv>

#include "base/bytes.h"

namespace softmig::policy {
namespace {

using base::head;
using base::tail;
using base::trim_blanks;

bool to_number(std::string_view text, uint64_t largest, uint64_t* number) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > largest) return false;
  *number = value;
  return true;
}

// Cuts the first entry off a list. False when nothing is left.
bool next_entry(std::string_view* list, bool* last, std::string_view* entry) {
  if (*last) return false;
  const size_t comma = list->find(',');
  *last = comma == std::string_view::npos;
  *entry = trim_blanks(head(*list, comma));
  list->remove_prefix(*last ? list->size() : comma + 1);
  return true;
}

int hex_digit(char byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
  if (byte >= 'A' && byte <= 'F') return byte - 'A' + 10;
  return -1;
}

void store(uint64_t value, int device, PerDevice* values) {
  if (device < 0) {
    values->general_set = true;
    values->general = value;
  } else {
    values->set[device] = true;
    values->value[device] = value;
  }
}

// The setters of config_keys.def. `device` is the n of "_n", -1 without. False: bad value, and
// *settings is unchanged.

bool set_memory(std::string_view text, int device, Settings* settings) {
  uint64_t bytes = 0;
  if (!base::parse_size(text, &bytes)) return false;
  store(bytes, device, &settings->memory);
  return true;
}

bool set_sm(std::string_view text, int device, Settings* settings) {
  uint64_t percent = 0;
  if (!to_number(text, 100, &percent)) return false;
  store(percent, device, &settings->sm);
  return true;
}

bool set_oom_killer(std::string_view text, int, Settings* settings) {
  uint64_t on = 0;
  if (!to_number(text, 1, &on)) return false;
  settings->oom_killer = on == 1;
  return true;
}

bool set_log_level(std::string_view text, int, Settings* settings) {
  uint64_t level = 0;
  if (!to_number(text, 4, &level)) return false;
  settings->log_level = static_cast<int>(level);
  settings->log_level_set = true;
  return true;
}

template <size_t N>
bool set_path(std::string_view text, char (&path)[N]) {
  if (text.empty() || text[0] != '/' || text.size() >= N) return false;
  if (text.find('\0') != std::string_view::npos) return false;
  for (size_t i = 0; i < N; i++) path[i] = i < text.size() ? text[i] : '\0';
  return true;
}

bool set_log_file(std::string_view text, int, Settings* settings) {
  return set_path(text, settings->log_file);
}

bool set_board(std::string_view text, int, Settings* settings) {
  return set_path(text, settings->board);
}

bool set_slots(std::string_view text, int, Settings* settings) {
  const size_t slash = text.find('/');
  uint64_t count = 0;
  if (slash == std::string_view::npos ||
      !to_number(trim_blanks(tail(text, slash + 1)), 32, &count) || count == 0) {
    return false;
  }
  uint32_t mask = 0;
  std::string_view list = head(text, slash), entry;
  bool last = false;
  while (next_entry(&list, &last, &entry)) {
    uint64_t slot = 0;
    if (!to_number(entry, count - 1, &slot) || (mask >> slot & 1) != 0) return false;
    mask |= uint32_t{1} << slot;
  }
  settings->slot_mask_lo = mask;
  settings->slot_count = static_cast<uint32_t>(count);
  return true;
}

bool set_frame(std::string_view text, int, Settings* settings) {
  uint64_t ms = 0;
  if (!to_number(text, 1000, &ms) || ms < 5) return false;
  settings->frame_ms = static_cast<uint32_t>(ms);
  return true;
}

bool set_share_mode(std::string_view text, int, Settings* settings) {
  constexpr struct {
    std::string_view name;
    ShareMode mode;
  } kModes[] = {
      {"budget", ShareMode::kBudget}, {"strict", ShareMode::kStrict}, {"fill", ShareMode::kFill}};
  for (const auto& row : kModes) {
    if (text != row.name) continue;
    settings->share_mode = row.mode;
    return true;
  }
  return false;
}

bool set_gpus(std::string_view text, int, Settings* settings) {
  Uuid gpus[kMaxLimitedDevices] = {};
  int count = 0;
  std::string_view entry;
  bool last = false;
  while (next_entry(&text, &last, &entry)) {
    if (count == kMaxLimitedDevices || !parse_uuid(entry, &gpus[count])) return false;
    for (int i = 0; i < count; i++) {
      if (gpus[i] == gpus[count]) return false;
    }
    count++;
  }
  for (int i = 0; i < kMaxLimitedDevices; i++) settings->gpu[i] = gpus[i];
  settings->gpu_count = count;
  return true;
}

bool set_uid(std::string_view text, int, Settings* settings) {
  uint64_t uid = 0;
  if (!to_number(text, UINT32_MAX - 1, &uid)) return false;  // (uid_t)-1 is nobody
  settings->uid = static_cast<uint32_t>(uid);
  settings->uid_set = true;
  return true;
}

bool set_context_cost(std::string_view text, int, Settings* settings) {
  return base::parse_size(text, &settings->context_cost);
}

constexpr ConfigKey kKeys[] = {
#define SM_CONFIG_KEY(name, devices, effect, places, setter, default_text, format, help) \
  {#name, Devices::devices, Effect::effect, KeyPlaces::places, default_text, format, help},
#include "abi/config_keys.def"
#undef SM_CONFIG_KEY
};

using Setter = bool (*)(std::string_view, int, Settings*);
constexpr Setter kSetters[] = {
#define SM_CONFIG_KEY(name, devices, effect, places, setter, default_text, format, help) setter,
#include "abi/config_keys.def"
#undef SM_CONFIG_KEY
};

// The n of "_n": decimal, without leading zeros. False if this is no such ending.
bool parse_ending(std::string_view ending, uint64_t* device) {
  if (ending.size() < 2 || ending[0] != '_') return false;
  ending.remove_prefix(1);
  return (ending == "0" || ending[0] != '0') && to_number(ending, UINT64_MAX, device);
}

// Row of a key and its device, -1 without one. Row -1: unknown.
struct Match {
  int row = -1;
  bool has_device = false;
  uint64_t device = 0;
};

Match match_key(std::string_view key) {
  for (int row = 0; row < static_cast<int>(std::size(kKeys)); row++) {
    const std::string_view name = kKeys[row].name;
    if (key == name) return {.row = row};
    uint64_t device = 0;
    if (kKeys[row].devices == Devices::kPerDevice && key.starts_with(name) &&
        parse_ending(tail(key, name.size()), &device)) {
      return {.row = row, .has_device = true, .device = device};
    }
  }
  return {};
}

bool is_key_byte(char byte) {
  return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
         (byte >= '0' && byte <= '9') || byte == '_';
}

uint64_t smaller_limit(uint64_t a, uint64_t b) {
  if (a == 0 || b == 0) return a | b;
  return a < b ? a : b;
}

PerDevice generally(uint64_t limit) { return {.general_set = limit != 0, .general = limit}; }

}  // namespace

bool PerDevice::any(uint64_t unlimited) const {
  const uint64_t smallest = strictest();
  return smallest != 0 && smallest < unlimited;
}

uint64_t PerDevice::strictest() const {
  uint64_t smallest = general;
  for (int i = 0; i < kMaxLimitedDevices; i++) {
    if (set[i]) smallest = smaller_limit(smallest, value[i]);
  }
  return smallest;
}

std::span<const ConfigKey> config_keys() { return kKeys; }

const ConfigKey* find_key(std::string_view key) {
  const Match match = match_key(key);
  return match.row < 0 ? nullptr : &kKeys[match.row];
}

ParseStatus parse_value(std::string_view key, std::string_view value, Settings* settings) {
  const Match match = match_key(key);
  if (match.row < 0) return ParseStatus::kUnknownKey;
  if (match.has_device && match.device >= kMaxLimitedDevices) return ParseStatus::kBadDevice;
  const int device = match.has_device ? static_cast<int>(match.device) : -1;
  return kSetters[match.row](trim_blanks(value), device, settings) ? ParseStatus::kOk
                                                                   : ParseStatus::kBadValue;
}

ParseStatus split_line(std::string_view line, std::string_view* key, std::string_view* value) {
  if (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  line = trim_blanks(line);
  *key = *value = {};
  if (line.empty() || line.front() == '#') return ParseStatus::kOk;
  const size_t sign = line.find('=');
  if (sign == std::string_view::npos) return ParseStatus::kBadSyntax;
  const std::string_view name = trim_blanks(head(line, sign));
  if (name.empty()) return ParseStatus::kBadSyntax;
  for (const char byte : name) {
    if (!is_key_byte(byte)) return ParseStatus::kBadSyntax;
  }
  *key = name;
  *value = trim_blanks(tail(line, sign + 1));
  return ParseStatus::kOk;
}

ParseStatus parse_line(std::string_view line, Settings* settings) {
  std::string_view key, value;
  const ParseStatus status = split_line(line, &key, &value);
  if (status != ParseStatus::kOk || key.empty()) return status;
  return parse_value(key, value, settings);
}

bool parse_uuid(std::string_view text, Uuid* uuid) {
  constexpr std::string_view kPattern = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  if (!text.starts_with("GPU-") && !text.starts_with("MIG-")) return false;
  text.remove_prefix(4);
  if (text.size() != kPattern.size()) return false;
  Uuid parsed = {};
  int digits = 0;
  for (size_t i = 0; i < text.size(); i++) {
    if (kPattern[i] == '-' && text[i] == '-') continue;
    const int digit = hex_digit(text[i]);
    if (kPattern[i] == '-' || digit < 0) return false;
    uint8_t& byte = parsed.byte[digits++ / 2];
    byte = static_cast<uint8_t>(byte << 4 | digit);
  }
  *uuid = parsed;
  return true;
}

void merge_strictest(const Settings& other, Settings* settings) {
  settings->memory =
      generally(smaller_limit(settings->memory.strictest(), other.memory.strictest()));
  settings->sm = generally(smaller_limit(settings->sm.strictest(), other.sm.strictest()));
  settings->gpu_count = 0;
  settings->slot_count = settings->slot_mask_lo = 0;
  if (other.context_cost > settings->context_cost) settings->context_cost = other.context_cost;
}

bool same_limits(const Settings& a, const Settings& b) {
  if (a.gpu_count != b.gpu_count) return false;
  for (int i = 0; i < a.gpu_count; i++) {
    if (!(a.gpu[i] == b.gpu[i])) return false;
  }
  return a.memory == b.memory && a.sm == b.sm && a.oom_killer == b.oom_killer &&
         a.context_cost == b.context_cost && a.slot_mask_lo == b.slot_mask_lo &&
         a.slot_count == b.slot_count && a.frame_ms == b.frame_ms && a.share_mode == b.share_mode;
}

int device_index(const Settings& settings, const Uuid& uuid, int fallback) {
  for (int i = 0; i < settings.gpu_count; i++) {
    if (settings.gpu[i] == uuid) return i;
  }
  return fallback;
}

uint64_t memory_limit(const Settings& settings, int device_index) {
  return device_index < 0 ? settings.memory.strictest() : settings.memory.get(device_index);
}

uint64_t sm_limit(const Settings& settings, int device_index) {
  const uint64_t percent =
      device_index < 0 ? settings.sm.strictest() : settings.sm.get(device_index);
  return percent >= kFullShare ? 0 : percent;
}

ShareRule share_rule(const Settings& settings, int device_index) {
  ShareRule rule{.percent = static_cast<uint32_t>(sm_limit(settings, device_index)),
                 .mode = settings.share_mode,
                 .slot_mask = settings.slot_mask_lo,
                 .slot_count = settings.slot_count};
  if (settings.frame_ms != 0) rule.frame_ns = uint64_t{settings.frame_ms} * 1'000'000;
  return rule;
}

}  // namespace softmig::policy
