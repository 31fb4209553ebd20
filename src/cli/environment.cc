#include "cli/environment.h"

#include <fmt/core.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/bytes.h"
#include "cli/failure.h"

namespace softmig::cli {
namespace {

bool is_named(std::string_view entry, std::string_view name) {
  return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
}

bool is_per_device(std::string_view entry, std::string_view name) {
  std::string_view key = entry.substr(0, entry.find('='));
  if (!key.starts_with(name)) return false;
  key.remove_prefix(name.size());
  if (key.empty()) return true;
  return key.size() > 1 && key[0] == '_' &&
         std::all_of(key.begin() + 1, key.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<std::string> split(std::string_view list, std::string_view separators) {
  std::vector<std::string> entries;
  while (true) {
    const size_t end = list.find_first_of(separators);
    const std::string_view entry = base::trim_blanks(list.substr(0, end));
    if (!entry.empty()) entries.emplace_back(entry);
    if (end == std::string_view::npos) return entries;
    list.remove_prefix(end + 1);
  }
}

bool is_uuid(std::string_view entry) {
  return entry.starts_with("GPU-") || entry.starts_with("MIG-");
}

// What is wrong with one entry of CUDA_VISIBLE_DEVICES; empty if nothing is. Parts of a MIG device
// are not NVML's to tell.
std::string trouble_with(std::string_view entry, const Nvml& nvml) {
  size_t number = 0;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  if (error == std::errc() && end == entry.data() + entry.size()) {
    const size_t count = nvml.devices().size();
    return number < count ? "" : fmt::format("there is no device {}, only {}", number, count);
  }
  if (!entry.starts_with("GPU-")) return "";
  for (const NvmlDevice& device : nvml.devices()) {
    if (device.uuid_text.starts_with(entry)) return "";
  }
  return fmt::format("no device has the UUID {}", entry);
}

}  // namespace

Environment::Environment() {
  for (char** entry = environ; entry != nullptr && *entry != nullptr; entry++) {
    entries_.emplace_back(*entry);
  }
}

void Environment::set(std::string_view name, std::string_view value) {
  remove(name);
  entries_.push_back(std::string(name) + "=" + std::string(value));
}

void Environment::remove(std::string_view name) {
  std::erase_if(entries_, [&](const std::string& entry) { return is_named(entry, name); });
}

void Environment::remove_per_device(std::string_view name) {
  std::erase_if(entries_, [&](const std::string& entry) { return is_per_device(entry, name); });
}

std::string Environment::get(std::string_view name) const {
  for (const std::string& entry : entries_) {
    if (is_named(entry, name)) return entry.substr(name.size() + 1);
  }
  return {};
}

void Environment::prepend(std::string_view name, std::string_view entry, char separator) {
  const std::string rest = get(name);
  set(name, std::string(entry) + (rest.empty() ? "" : separator + rest));
}

void preload(std::string_view library, Environment* environment) {
  std::string list(library);
  for (const std::string& entry : split(environment->get("LD_PRELOAD"), ": ")) {
    if (std::filesystem::path(entry).filename() != "libsoftmig.so") list += ":" + entry;
  }
  environment->set("LD_PRELOAD", list);
}

std::string visible_devices(const std::string& which, const Environment& environment,
                            const Nvml* nvml) {
  const std::vector<std::string> visible = split(environment.get("CUDA_VISIBLE_DEVICES"), ",");
  std::vector<std::string> chosen;
  constexpr const char* kHint = "nvidia-smi -L shows the devices of this machine";
  for (const std::string& entry : split(which, ",")) {
    size_t number = 0;
    const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
    const bool is_number = error == std::errc() && end == entry.data() + entry.size();
    if (!is_number && !is_uuid(entry)) {
      throw Failure(
          fmt::format("--device {}: \"{}\" is no number and no UUID", which, entry),
          "numbers are CUDA's own: --device 0, --device 0,1; UUIDs are those of nvidia-smi -L",
          kExitUsage);
    }
    if (is_number && !visible.empty() && number >= visible.size()) {
      throw Failure(fmt::format("--device {}: CUDA_VISIBLE_DEVICES={} shows no device {}", which,
                                environment.get("CUDA_VISIBLE_DEVICES"), entry));
    }
    const std::string name = !is_number        ? entry
                             : visible.empty() ? std::to_string(number)
                                               : visible[number];
    if (std::find(chosen.begin(), chosen.end(), name) != chosen.end()) {
      throw Failure(fmt::format("--device {}: names device {} twice", which, entry), {},
                    kExitUsage);
    }
    const std::string trouble = nvml != nullptr ? trouble_with(name, *nvml) : "";
    if (!trouble.empty()) throw Failure(fmt::format("--device {}: {}", which, trouble), kHint);
    chosen.push_back(name);
  }
  if (chosen.empty()) throw Failure("--device names no device", {}, kExitUsage);
  return fmt::format("{}", fmt::join(chosen, ","));
}

}  // namespace softmig::cli
