// Stream-ordered memory: what the pools of a device hold is charged, used or not.
#pragma once

#include <cstdint>

#include "abi/cuda.h"

namespace softmig::cuda {

// Counts a pool of a device (index in the region) from now on.
void add_pool(CUmemoryPool pool, int device);
// The program destroys a pool: it ends when its last allocation does. False: not one of ours, the
// driver is to be asked; else *result is the answer.
bool destroy_pool_later(CUmemoryPool pool, CUresult* result);

// Something was freed: a pool may shrink at the next synchronisation.
void pools_may_shrink();
// Reads the pools again and charges what they hold, no more. Cheap if nothing happened since.
void settle_pools();

// For somebody who was refused: gives back what this process's pools hold and nobody uses, as the
// driver does when the card is full. True if there was something.
bool release_hoards(int device);

// Device (index in the region) whose pool serves this stream, -1 if unknown.
int device_of_stream(CUstream stream);

// Permission for one stream-ordered allocation.
class PoolAdmission {
 public:
  PoolAdmission(int device, uint64_t bytes, CUstream stream);
  PoolAdmission(const PoolAdmission&) = delete;
  PoolAdmission& operator=(const PoolAdmission&) = delete;

  bool refused() const { return state_ == State::kRefused; }
  // To be called after the driver. False: the allocation must be undone, it passed the limit.
  bool finish(bool allocated);
  // After an undone allocation: lets the pools shrink again.
  void give_up_growth(CUstream stream);

 private:
  enum class State { kAdmitted, kExact, kFromCache, kRefused };
  State admit(uint64_t bytes, CUstream stream);
  State admit_now(uint64_t bytes);

  int device_;
  uint64_t worst_;
  State state_;
};

}  // namespace softmig::cuda
