// How the driver packs small things (arrays, module globals) into pages, where it does not tell
// their addresses. Never below the truth: a place that was freed is used again only by the same
// size.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace softmig::policy {

inline constexpr uint64_t kPage = 2 * base::kMiB;  // the driver takes memory in such pages
inline constexpr uint64_t kPackUnit = 512;         // and places small things at such steps
inline constexpr uint64_t kPackUnits = kPage / kPackUnit;

constexpr uint64_t in_pages(uint64_t bytes) { return base::round_up(bytes, kPage); }

class Packing {
 public:
  static constexpr bool packs(uint64_t bytes) { return bytes < kPage; }

  // Bytes of new pages that one more thing of this size needs.
  uint64_t growth(uint64_t bytes) const {
    const uint64_t units = units_of(bytes);
    return free_[units] > 0 ? 0 : pages_for(filled_ + share(units)) * kPage - held_;
  }
  void add(uint64_t bytes) {
    const uint64_t units = units_of(bytes);
    live_++;
    if (free_[units] > 0) {
      free_[units]--;
      return;
    }
    filled_ += share(units);
    held_ = pages_for(filled_) * kPage;
  }
  // Returns the bytes that are given back: all, when the last thing goes.
  uint64_t remove(uint64_t bytes) {
    free_[units_of(bytes)]++;
    if (--live_ != 0) return 0;
    const uint64_t held = held_;
    *this = Packing();
    return held;
  }

 private:
  // A page in parts so fine that what rounding adds to a page full of things is never a thing.
  static constexpr uint64_t kParts = kPage << 16;
  static constexpr uint64_t kRounding = kParts / (2 * kPackUnits);

  static constexpr uint64_t units_of(uint64_t bytes) {
    return bytes == 0 ? 1 : (bytes + kPackUnit - 1) / kPackUnit;
  }
  // Of things a little larger than a third of a page only two fit: each then costs half a page.
  static constexpr uint64_t share(uint64_t units) {
    const uint64_t fit = kPackUnits / units;
    return (kParts + fit - 1) / fit;
  }
  static constexpr uint64_t pages_for(uint64_t parts) {
    return (parts + kParts - 1 - kRounding) / kParts;
  }

  uint64_t filled_ = 0, held_ = 0, live_ = 0;
  uint32_t free_[kPackUnits + 1] = {};
};

}  // namespace softmig::policy
