// Which device of the job a CUDA ordinal means: CUDA_VISIBLE_DEVICES reorders, hides and renames.
#pragma once

#include <charconv>
#include <string_view>

namespace softmig::policy {

// Place of `ordinal` in the job's own device order by the list of CUDA_VISIBLE_DEVICES. -1 where
// the list names the device by UUID or MIG name (the UUID then decides), or has no such entry.
inline int visible_index(std::string_view list, int ordinal) {
  for (int i = 0;; i++) {
    const size_t comma = list.find(',');
    std::string_view entry = list.substr(0, comma);
    while (!entry.empty() && (entry.front() == ' ' || entry.front() == '\t'))
      entry.remove_prefix(1);
    while (!entry.empty() && (entry.back() == ' ' || entry.back() == '\t')) entry.remove_suffix(1);
    if (i == ordinal) {
      int index = -1;
      const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), index);
      const bool whole = error == std::errc() && end == entry.data() + entry.size();
      return whole && index >= 0 ? index : -1;
    }
    if (comma == std::string_view::npos) return -1;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace softmig::policy
