#include "policy/busy.h"

#include <algorithm>

namespace softmig::policy {
namespace {

constexpr uint64_t kWordNs = kBusyCellNs * kBusyCellsPerWord;
constexpr uint32_t kCellBits = 8;
constexpr uint64_t kCellMask = (1 << kCellBits) - 1;
constexpr uint64_t kUnitsPerCell = kBusyCellNs / kBusyUnitNs;
constexpr uint32_t kLapShift = kCellBits * kBusyCellsPerWord;
static_assert(kLapShift == 48 && kUnitsPerCell <= kCellMask);

uint64_t cell_of(uint64_t word, uint32_t cell) { return word >> cell * kCellBits & kCellMask; }

// Part of [begin, end) that lies in the cell that starts at `start`, in units.
uint64_t part_in(uint64_t start, uint64_t begin, uint64_t end) {
  const uint64_t from = std::max(start, begin), to = std::min(start + kBusyCellNs, end);
  return to > from ? (to - from + kBusyUnitNs / 2) / kBusyUnitNs : 0;
}

// Pours up to `units` into the cells of the word whose first one starts at `start`. Returns how
// many fitted.
uint64_t pour_word(std::atomic<uint64_t>& shared, uint64_t start, uint64_t begin, uint64_t end,
                   uint64_t units) {
  const uint64_t lap = start / kBusyLapNs & 0xffff;
  uint64_t old = shared.load(std::memory_order_relaxed);
  for (;;) {
    uint64_t word = old;
    const auto age = static_cast<int16_t>(static_cast<uint16_t>(lap - (word >> kLapShift)));
    if (age < 0) return units;  // overtaken: nobody can tell any more
    if (age > 0) word = lap << kLapShift;
    uint64_t poured = 0;
    for (uint32_t i = kBusyCellsPerWord; i-- > 0;) {
      const uint64_t held = std::min(cell_of(word, i), kUnitsPerCell);
      const uint64_t room =
          std::min(part_in(start + i * kBusyCellNs, begin, end), kUnitsPerCell - held);
      const uint64_t now = std::min(room, units - poured);
      word += now << i * kCellBits;
      poured += now;
    }
    if (poured == 0) return 0;
    if (shared.compare_exchange_weak(old, word, std::memory_order_relaxed)) return poured;
  }
}

}  // namespace

uint64_t pour(abi::RegionBusy& busy, uint64_t begin, uint64_t end, uint64_t cost) {
  if (end <= begin || cost == 0) return 0;
  // Longer work than a lap has lapped itself.
  if (end - begin >= kBusyLapNs - kWordNs) return cost;
  const uint64_t wanted = (cost + kBusyUnitNs / 2) / kBusyUnitNs;
  const uint64_t first = begin / kWordNs * kWordNs;
  uint64_t poured = 0;
  for (uint64_t start = (end - 1) / kWordNs * kWordNs; poured < wanted; start -= kWordNs) {
    poured +=
        pour_word(busy.word[start / kWordNs % abi::kBusyWords], start, begin, end, wanted - poured);
    if (start <= first) break;
  }
  return poured >= wanted ? cost : std::min(cost, poured * kBusyUnitNs);
}

}  // namespace softmig::policy
