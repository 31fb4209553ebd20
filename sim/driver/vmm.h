// Physical memory without an address (cuMemCreate), and what is mapped where.
#pragma once

#include <map>
#include <memory>

#include "driver/core.h"

namespace softmig::sim {

struct Physical {
  uint64_t handle = 0;
  Device* device = nullptr;  // null: host memory
  uint64_t bytes = 0;
  CUmemAllocationProp props{};
  uint64_t references = 0;
  uint64_t mappings = 0;  // and arrays that it is bound to
  ObjectId object;        // since it was exported, or imported
  std::shared_ptr<Storage> storage;
};

struct Mapping {
  uint64_t bytes = 0;
  Physical* physical = nullptr;
  CUmemAccess_flags access[kMaxDevices] = {};
};

struct Reservation {
  std::map<uint64_t, Mapping> mappings;  // by address
};

Physical* find_physical(CUmemGenericAllocationHandle handle);

// Gives the memory back once neither a handle nor a mapping is left.
void drop_if_unused(Physical* physical);

// The content of an object where every process finds it. Made, with `from` in it, if `create`.
std::shared_ptr<Storage> open_shared_storage(ObjectId id, uint64_t bytes, bool create,
                                             const Storage* from);

}  // namespace softmig::sim
