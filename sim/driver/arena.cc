#include "driver/arena.h"

#include <algorithm>

namespace softmig::sim {

// The first free run of `units` that starts at a multiple of `step`; kUnits if there is none.
uint64_t Arena::place(Block* block, uint64_t units, uint64_t step) {
  uint64_t run = 0, longest = 0;
  for (uint64_t at = block->lowest; at < kUnits; ++at) {
    if (block->used[at]) {
      run = 0;
      continue;
    }
    if (run == 0 && at % step != 0) continue;
    longest = std::max(longest, ++run);
    if (run == units) return at + 1 - units;
  }
  if (step == 1) block->longest = longest;
  return kUnits;
}

uint64_t Arena::take(uint64_t bytes, uint64_t alignment) {
  const uint64_t units = round_up(bytes, kUnit) / kUnit;
  const uint64_t step = std::max<uint64_t>(1, alignment / kUnit);
  for (uint64_t base : open_) {
    Block& block = *blocks_[base];
    if (block.free_units < units || block.longest < units) continue;
    const uint64_t at = place(&block, units, step);
    if (at == kUnits) continue;
    for (uint64_t i = 0; i < units; ++i) block.used.set(at + i);
    block.starts.set(at);
    block.slack[at] = static_cast<uint16_t>(units * kUnit - bytes);
    block.free_units -= units;
    if (at == block.lowest) block.lowest = at + units;
    if (block.free_units == 0) open_.erase(base);
    return base + at * kUnit;
  }
  return 0;
}

Block* Arena::add(uint64_t base) {
  auto block = std::make_unique<Block>();
  block->base = base;
  block->arena = this;
  open_.insert(base);
  return (blocks_[base] = std::move(block)).get();
}

bool Arena::find(const Block& block, uint64_t address, Piece* piece) {
  uint64_t first = (address - block.base) / kUnit;
  if (!block.used[first]) return false;
  while (!block.starts[first]) --first;
  uint64_t end = first + 1;
  while (end < kUnits && block.used[end] && !block.starts[end]) ++end;
  piece->base = block.base + first * kUnit;
  piece->bytes = (end - first) * kUnit - block.slack[first];
  return true;
}

bool Arena::free(Block* block, uint64_t address, bool* empty) {
  Piece piece;
  if (!find(*block, address, &piece) || piece.base != address) return false;
  const uint64_t first = (piece.base - block->base) / kUnit;
  const uint64_t units = round_up(piece.bytes, kUnit) / kUnit;
  for (uint64_t i = 0; i < units; ++i) block->used.reset(first + i);
  block->starts.reset(first);
  block->free_units += units;
  block->longest = kUnits;
  block->lowest = std::min(block->lowest, first);
  block->arena->open_.insert(block->base);
  *empty = block->free_units == kUnits;
  return true;
}

void Arena::remove(Block* block) {
  open_.erase(block->base);
  blocks_.erase(block->base);
}

void Arena::clear() {
  open_.clear();
  blocks_.clear();
}

}  // namespace softmig::sim
