#include "driver/space.h"

#include "state/settings.h"

namespace softmig::sim {

AddressSpace::AddressSpace(uint64_t begin, uint64_t end) { free_[begin] = end; }

uint64_t AddressSpace::carve(Free::iterator from, uint64_t base, uint64_t bytes) {
  const uint64_t begin = from->first, end = from->second;
  free_.erase(from);
  if (begin < base) free_[begin] = base;
  if (base + bytes < end) free_[base + bytes] = end;
  return base;
}

uint64_t AddressSpace::take(uint64_t bytes, uint64_t alignment, uint64_t wish) {
  if (bytes == 0 || bytes > (uint64_t{1} << 47)) return 0;
  if (wish != 0 && wish % alignment == 0) {
    auto at = free_.upper_bound(wish);
    if (at != free_.begin() && (--at)->second >= wish + bytes) return carve(at, wish, bytes);
  }
  for (auto at = free_.begin(); at != free_.end(); ++at) {
    const uint64_t base = round_up(at->first, alignment);
    if (base + bytes <= at->second) return carve(at, base, bytes);
  }
  return 0;
}

void AddressSpace::give(uint64_t base, uint64_t bytes) {
  auto next = free_.upper_bound(base);
  uint64_t end = base + bytes;
  if (next != free_.end() && next->first == end) {
    end = next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->second == base) {
      before->second = end;
      return;
    }
  }
  free_[base] = end;
}

}  // namespace softmig::sim
