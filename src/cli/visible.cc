#include "cli/visible.h"

#include <charconv>
#include <string_view>

#include "base/bytes.h"

namespace softmig::cli {
namespace {

const NvmlDevice* find(std::string_view entry, const std::vector<NvmlDevice>& devices) {
  int index = -1;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), index);
  const bool is_number = error == std::errc() && end == entry.data() + entry.size();
  for (const NvmlDevice& device : devices) {
    if (is_number ? device.index == index
                  : entry.starts_with("GPU-") && device.uuid_text.starts_with(entry)) {
      return &device;
    }
  }
  return nullptr;
}

}  // namespace

std::vector<const NvmlDevice*> visible_in(const char* list,
                                          const std::vector<NvmlDevice>& devices) {
  std::vector<const NvmlDevice*> visible;
  if (list == nullptr) {
    for (const NvmlDevice& device : devices) visible.push_back(&device);
    return visible;
  }
  std::string_view rest = list;
  while (true) {
    const size_t comma = rest.find(',');
    const NvmlDevice* device = find(base::trim_blanks(rest.substr(0, comma)), devices);
    if (device == nullptr) return visible;
    visible.push_back(device);
    if (comma == std::string_view::npos) return visible;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace softmig::cli
