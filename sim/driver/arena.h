// Small pieces packed into 2 MiB blocks, as the driver does it for allocations up to 1 MiB. A block
// is a physical page; when its last piece is freed it goes back at once.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <set>

#include "driver/storage.h"

namespace softmig::sim {

constexpr uint64_t kUnit = 512;  // pieces start at multiples of this
constexpr uint64_t kUnits = kPage / kUnit;
constexpr uint64_t kLargestPacked = kMiB;

class Arena;

struct Block {
  uint64_t base = 0;
  Arena* arena = nullptr;
  uint64_t free_units = kUnits;
  uint64_t longest = kUnits;  // no free run is longer
  uint64_t lowest = 0;        // no unit before this one is free
  std::bitset<kUnits> used;
  std::bitset<kUnits> starts;   // first unit of a piece
  uint16_t slack[kUnits] = {};  // by first unit: bytes that were not asked for
  std::shared_ptr<Storage> storage = std::make_shared<Storage>();
};

// A piece as found by an address within it.
struct Piece {
  uint64_t base = 0;
  uint64_t bytes = 0;  // as asked for
};

class Arena {
 public:
  // The first place where `bytes` fit in a block that exists; 0 where there is none: then add()
  // one.
  uint64_t take(uint64_t bytes, uint64_t alignment);
  Block* add(uint64_t base);

  // Whether a piece starts at `address`; if so frees it. `empty`: the block has no piece any more.
  static bool free(Block* block, uint64_t address, bool* empty);
  static bool find(const Block& block, uint64_t address, Piece* piece);

  // Forgets an empty block.
  void remove(Block* block);

  const std::map<uint64_t, std::unique_ptr<Block>>& blocks() const { return blocks_; }
  void clear();

 private:
  std::map<uint64_t, std::unique_ptr<Block>> blocks_;
  std::set<uint64_t> open_;  // bases of blocks with room

  static uint64_t place(Block* block, uint64_t units, uint64_t step);
};

}  // namespace softmig::sim
