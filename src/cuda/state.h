// What the hooks of this folder share: which device a call means, charges that give themselves
// back, and the tables of what this process holds.
#pragma once

#include "cuda/table.h"
#include "hook/hook.h"
#include "policy/packing.h"

namespace softmig::cuda {

using hook::active;
using job::slice;
using policy::in_pages;
using policy::kPage;

// Where the current context's allocations go.
struct Place {
  uint32_t context = 0;  // id of the context, 0: not one of ours
  int device = -1;       // index in the region
};

// False without a current context: the driver will say what is wrong.
bool current_place(Place* place);

// Index in the region of a CUDA device, job::kUncounted if that has no room for it; -1 if there is
// no such device, or nothing to count there.
int device_of(CUdevice ordinal);
// The number of CUDA devices, as the driver says.
int device_count();

// Takes bytes from the job; this process's own hoards (pools, graph memory) go first.
bool reserve(int device, uint64_t bytes);

// Bytes taken from the job before the driver is asked; what is not kept is given back.
class Charge {
 public:
  Charge(int device, uint64_t bytes)
      : device_(device), bytes_(bytes), granted_(bytes == 0 || reserve(device, bytes)) {}
  ~Charge() {
    if (granted_) slice().release(device_, bytes_);
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

  explicit operator bool() const { return granted_; }
  // The driver took this much: more than was reserved is charged all the same.
  void keep(uint64_t bytes) {
    if (bytes > bytes_) slice().charge(device_, bytes - bytes_);
    bytes_ = bytes < bytes_ ? bytes_ - bytes : 0;
  }

 private:
  int device_;
  uint64_t bytes_;
  bool granted_;
};

// Every table is keyed by what the program holds: an address or a handle.
struct Tables {
  Table contexts;  // CUcontext
  Table limits;    // CUcontext + kind: stack, heap, printf and streams of a context
  Table pointers;  // cuMemAlloc and its kin
  Table blocks;    // 2 MiB block that several allocations share: detail counts them
  Table arrays;    // CUarray, CUmipmappedArray
  Table modules;   // CUmodule, CUlibrary
  Table streams;   // CUstream: detail is the row of `limits` that counts it
  Table handles;   // CUmemGenericAllocationHandle
  Table mappings;  // address of a mapping: detail is its handle
  Table imports;   // address from cuIpcOpenMemHandle
  Table external;  // CUexternalMemory
  Table graphs;    // CUgraphExec with memory nodes
  Table pools;     // CUmemoryPool: its device; detail 1: destroyed by the program
};
extern constinit Tables tables;

// Ends what `key` stands for: the record is taken out before the driver is called, since the key
// may be somebody else's the moment after, and put back if the driver refuses. `give_back` is
// called with a record that has ended.
template <typename Call, typename GiveBack>
CUresult end_record(Table& table, uint64_t key, Call call, GiveBack give_back) {
  Record record;
  const bool known = table.take(key, &record);
  const CUresult result = call();
  if (!known) return result;
  if (result == CUDA_SUCCESS) {
    give_back(record);
  } else {
    table.insert(key, record);
  }
  return result;
}

// Keeps the record of what was made in a context. While another context ends, its records are still
// there under keys that may be had again.
template <typename GiveBack>
void keep_record(Table& table, uint64_t key, const Record& record, GiveBack give_back) {
  Record displaced;
  if (table.replace(key, record, &displaced)) give_back(displaced);
}

// Drops all charges of a context that is gone.
void drop_context(uint32_t context);
// Makes a green context on top of the primary one; what it costs is charged with that.
using MakeGreen = CUresult (*)(void* arguments);
CUresult make_green(CUcontext primary, CUgreenCtx* out, MakeGreen make, void* arguments);
// One of the things that a context keeps memory for (a stream, a green context) is gone.
void end_kept(uint64_t handle);
void end_stream(CUstream stream);
// For somebody who was refused: trims the device's graph memory. True if that gave something back.
bool release_graph_memory(int device);
// Parts of drop_context, each beside the hooks that made the records.
void drop_pointers(uint32_t context);
void drop_arrays(uint32_t context);
void drop_modules(uint32_t context);
void drop_limits(uint32_t context);

// Things smaller than a page, packed: reserves what one more needs. False: refused.
class PackedCharge {
 public:
  PackedCharge(policy::Packing* packing, sys::Mutex* lock, int device, uint64_t bytes);
  ~PackedCharge();
  PackedCharge(const PackedCharge&) = delete;
  PackedCharge& operator=(const PackedCharge&) = delete;
  explicit operator bool() const { return granted_; }
  void keep() { kept_ = true; }

 private:
  policy::Packing* packing_;
  sys::Mutex* lock_;
  int device_;
  uint64_t bytes_;
  bool granted_ = false, kept_ = false;
};

}  // namespace softmig::cuda
