// The limits of one job as values: no file, no environment, no clock. The table of keys is
// abi/config_keys.def: parser, help and docs come from it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "abi/region.h"
#include "policy/share.h"

namespace softmig::policy {

inline constexpr int kMaxLimitedDevices = abi::kMaxDevices;
inline constexpr uint64_t kFullShare = 100;  // percent: a share that limits nothing

struct Uuid {
  uint8_t byte[16];
  bool operator==(const Uuid&) const = default;
};

// A per-device value that may be unset (then the general one counts) or explicitly zero (no limit).
struct PerDevice {
  bool set[kMaxLimitedDevices] = {};
  uint64_t value[kMaxLimitedDevices] = {};
  bool general_set = false;
  uint64_t general = 0;
  bool operator==(const PerDevice&) const = default;
  uint64_t get(int device) const {
    return device >= 0 && device < kMaxLimitedDevices && set[device] ? value[device] : general;
  }
  // Any value that limits: not zero and less than `unlimited`.
  bool any(uint64_t unlimited = UINT64_MAX) const;
  uint64_t strictest() const;  // smallest value that is not zero, 0 if nothing limits
};

struct Settings {
  PerDevice memory;  // bytes, 0: no limit
  PerDevice sm;      // percent as written, 0..100; 0 and 100: no limit
  bool oom_killer = false;
  bool log_level_set = false;
  int log_level = 0;        // 0..4
  char log_file[256] = {};  // empty: default
  char board[256] = {};     // SOFTMIG_BOARD; empty: none
  int gpu_count = 0;        // SOFTMIG_GPUS, in order: position is the "_n" of the keys
  Uuid gpu[kMaxLimitedDevices] = {};
  bool uid_set = false;
  uint32_t uid = 0;                         // SOFTMIG_UID
  uint64_t context_cost = 0;                // bytes per context, 0: calibrated or default
  uint32_t slot_mask_lo = 0;                // SOFTMIG_SLOTS=0,2/4 : bits of the owned slots ...
  uint32_t slot_count = 0;                  // ... of so many; 0: no slots
  uint32_t frame_ms = 0;                    // SOFTMIG_FRAME_MS, 0: default
  ShareMode share_mode = ShareMode::kFill;  // SOFTMIG_SHARE_MODE
  bool operator==(const Settings&) const = default;
  bool limits_anything() const { return memory.any() || sm.any(kFullShare); }
};

// What abi/config_keys.def says about a key.
enum class Devices { kGeneral, kPerDevice };
enum class Effect { kLimits, kLogs, kHelps };
enum class KeyPlaces { kAnywhere, kFileOnly };
struct ConfigKey {
  const char* name;
  Devices devices;
  Effect effect;
  KeyPlaces places;
  const char* default_text;
  const char* format;  // completes "is not ..."
  const char* help;
};
std::span<const ConfigKey> config_keys();
// The row of a key, of its "_n" forms as well; null if the key is not known.
const ConfigKey* find_key(std::string_view key);

// kBadDevice: the n of "_n" is not below kMaxLimitedDevices.
enum class ParseStatus { kOk, kUnknownKey, kBadValue, kBadSyntax, kBadDevice };

// Parses one "KEY=VALUE" line (comments (#), blank lines, blanks around key and value, CRLF, and a
// trailing newline are fine). On error *settings is unchanged.
ParseStatus parse_line(std::string_view line, Settings* settings);

// Parses one value of a known key: used for environment variables.
ParseStatus parse_value(std::string_view key, std::string_view value, Settings* settings);

// Takes a line apart without judging the value. kOk with an empty key: a comment or blank line.
ParseStatus split_line(std::string_view line, std::string_view* key, std::string_view* value);

// "GPU-" or "MIG-" and the UUID in hexadecimal, 8-4-4-4-12 digits. False if it is anything else.
bool parse_uuid(std::string_view text, Uuid* uuid);

// The strictest of both in every respect, for a process that may belong to either job. What differs
// by device becomes one general limit, since their devices may not be the same.
void merge_strictest(const Settings& other, Settings* settings);

// What they let a job do is the same; what is logged may differ.
bool same_limits(const Settings& a, const Settings& b);

// Index "_n" of the device with this uuid: its place in SOFTMIG_GPUS, else `fallback` (place in the
// job's own device order, -1: unknown). Unknown means that the strictest limit applies.
int device_index(const Settings& settings, const Uuid& uuid, int fallback);
uint64_t memory_limit(const Settings& settings, int device_index);  // bytes, 0: none
uint64_t sm_limit(const Settings& settings, int device_index);      // percent 1..99, 0: none
ShareRule share_rule(const Settings& settings, int device_index);

}  // namespace softmig::policy
