#include "driver/visible.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>
#include <string_view>

#include "state/identity.h"

namespace softmig::sim {
namespace {

// Fastest first, as CUDA counts unless it is told to count by bus id. Equal ones by bus id.
std::vector<int> cuda_order(const StateFile& file, const char* order) {
  std::vector<int> all(file.device_count);
  std::iota(all.begin(), all.end(), 0);
  if (order != nullptr && std::strcmp(order, "PCI_BUS_ID") == 0) return all;
  const auto speed = [&](int i) {
    const DeviceRow& device = file.devices[i];
    return static_cast<int64_t>(device.multiprocessors) * device.clock_khz;
  };
  std::stable_sort(all.begin(), all.end(), [&](int a, int b) { return speed(a) > speed(b); });
  return all;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// The one device whose UUID begins so; -1 for none or several.
int by_uuid(const StateFile& file, std::string_view prefix) {
  int found = -1;
  for (uint32_t i = 0; i < file.device_count; ++i) {
    if (uuid_text(file.devices[i]).substr(0, prefix.size()) != prefix) continue;
    if (found >= 0) return -1;
    found = static_cast<int>(i);
  }
  return found;
}

int by_entry(const StateFile& file, const std::vector<int>& order, std::string_view entry) {
  if (entry.substr(0, 4) == "GPU-" && entry.size() > 4) return by_uuid(file, entry);
  int ordinal = -1;
  const auto result = std::from_chars(entry.data(), entry.data() + entry.size(), ordinal);
  const bool good = result.ec == std::errc() && result.ptr == entry.data() + entry.size() &&
                    ordinal >= 0 && ordinal < static_cast<int>(order.size());
  return good ? order[static_cast<size_t>(ordinal)] : -1;  // also for MIG-: these cards are whole
}

}  // namespace

std::vector<int> visible_devices(const StateFile& file, const char* list, const char* order) {
  const std::vector<int> all = cuda_order(file, order);
  if (list == nullptr) return all;
  std::vector<int> visible;
  for (std::string_view rest = list; !rest.empty();) {
    const size_t comma = rest.find(',');
    const int device = by_entry(file, all, trimmed(rest.substr(0, comma)));
    if (device < 0 || std::find(visible.begin(), visible.end(), device) != visible.end()) break;
    visible.push_back(device);
    rest = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  }
  return visible;
}

}  // namespace softmig::sim
