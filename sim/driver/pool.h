// Memory pools: the structures behind CUmemoryPool.
//
// A pool grows by chunks, whole multiples of 32 MiB; an allocation takes the first place that fits
// in one chunk. A synchronisation gives chunks without allocations back down to the threshold, and
// lets what remains of them be put together for a larger allocation.
#pragma once

#include <map>
#include <memory>
#include <set>

#include "driver/core.h"

namespace softmig::sim {

struct PoolChunk {
  Pool* pool = nullptr;
  Range* range = nullptr;
  std::map<uint64_t, uint64_t> free;  // begin -> end, offsets in the chunk
  std::map<uint64_t, uint64_t> used;  // offset -> bytes asked for
  uint64_t longest = 0;               // no free stretch is longer
  Tickets busy;                       // work that may still use what was freed
  bool settled = false;               // free since a synchronisation: its pages can be moved
};

struct Pool {
  static constexpr Mark kMark = kPool;
  Mark mark = kPool;
  Device* device = nullptr;
  CUmemPoolProps props{};
  bool is_default = false;
  bool destroyed = false;  // by the program; lives on while it has allocations
  bool imported = false;
  ObjectId object;                                        // once it was exported, or imported
  std::map<uint64_t, std::unique_ptr<PoolChunk>> chunks;  // by address
  uint64_t threshold = 0;
  uint64_t reserved = 0, reserved_high = 0;
  uint64_t used = 0, used_high = 0;
  uint64_t late = 0;  // freed by cuMemFree: leaves `used` at the pool's next action
  int reuse[3] = {1, 1, 1};
  CUmemAccess_flags access[kMaxDevices] = {};
};

}  // namespace softmig::sim
