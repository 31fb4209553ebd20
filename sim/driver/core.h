// What the simulated driver knows of the program that it is loaded into. One lock guards all of it;
// no call holds it while it waits.
//
// Handles are pointers to these structures. A structure is never given back to the heap, only
// marked dead, so that a stale handle is an error and not a crash.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "abi/cuda.h"
#include "driver/arena.h"
#include "driver/space.h"
#include "driver/storage.h"
#include "driver/work.h"
#include "state/objects.h"
#include "state/process.h"

namespace softmig::sim {

struct Array;
struct Capture;
struct Context;
struct Device;
struct GraphChunk;
struct GraphPool;
struct Module;
struct Pool;
struct PoolChunk;
struct Reservation;
struct Stream;

// Marks of live structures.
enum Mark : uint32_t {
  kDead = 0,
  kContext = 0x43545831,
  kStream,
  kEvent,
  kPool,
  kArray,
  kMipmap,
  kModule,
  kLibrary,
  kFunction,
  kKernel,
  kGraph,
  kNode,
  kExec,
  kGreen,
  kExternal,
  kLink,
  kCondition,
};

// `handle` as a live structure of that kind, or null. For pointers that a driver handed out.
template <class T>
T* live(void* handle) {
  auto* object = static_cast<T*>(handle);
  return object != nullptr && object->mark == T::kMark ? object : nullptr;
}

enum class RangeKind {
  kLinear,       // one allocation of its own pages
  kBlock,        // small pieces (Block)
  kManaged,      // host memory that the device may use
  kHost,         // page-locked host memory
  kRegistered,   // the program's memory, registered
  kPool,         // a chunk of a pool
  kReservation,  // addresses for cuMemMap
  kIpc,          // another process's memory
  kExternal,     // memory of another interface
  kGraph,        // memory of a graph
};

// A part of the address space that is in use, by its first address.
struct Range {
  RangeKind kind{};
  uint64_t base = 0;
  uint64_t bytes = 0;    // how much of the address space
  uint64_t asked = 0;    // how much the program asked for
  uint64_t charged = 0;  // how much device memory, unless an object holds it
  int device = 0;
  Context* context = nullptr;
  Arena* arena = nullptr;  // kLinear, kBlock: of which kind the allocation is
  ObjectId object;         // holds the memory since it was shared, or imported
  std::shared_ptr<Storage> storage;
  uint64_t storage_offset = 0;
  Block* block = nullptr;
  PoolChunk* chunk = nullptr;
  Reservation* reservation = nullptr;
  GraphChunk* graph = nullptr;
  unsigned int flags = 0;
  uint64_t opened = 0;         // kIpc: how often
  std::set<uint64_t> touched;  // kManaged: pages that the device used
  uint64_t id = 0;
};

struct Limits {
  uint64_t stack = 1024;
  uint64_t printf_fifo = 8650752;
  uint64_t heap = 8 * kMiB;
  uint64_t sync_depth = 2;
  uint64_t pending_launches = 2048;
  uint64_t l2_fetch = 64;
  uint64_t l2_persisting = 0;
  bool heap_taken = false;  // a kernel that uses the heap ran: its size is fixed
  bool printf_taken = false;
};

struct Context {
  static constexpr Mark kMark = kContext;
  Mark mark = kContext;
  Device* device = nullptr;
  uint64_t id = 0;
  unsigned int flags = 0;
  unsigned int api_version = 0;
  bool primary = false;
  bool alive = false;
  int references = 0;
  Limits limits;
  uint64_t listed = 0;  // streams, stack, heap: what is neither the context's cost nor a range
  unsigned int streams_made = 0;
  Arena linear, low, module, array;
  std::unordered_set<Stream*> streams;
  Stream* legacy = nullptr;
  std::vector<Lane*> lanes;
  int queues = -1;             // its row in the state file
  uint64_t queues_opened = 0;  // a number of their own, each time
  std::unordered_set<Module*> modules;
  std::unordered_set<Array*> arrays;
  std::set<Context*> peers;
};

struct Device {
  int ordinal = 0;
  int index = 0;  // in the state file
  const DeviceRow* row = nullptr;
  Context* primary = nullptr;
  unsigned int primary_flags = 0;
  int contexts = 0;
  bool managed_used = false;
  Pool* default_pool = nullptr;
  Pool* current_pool = nullptr;
  std::set<Pool*> pools;
  GraphPool* graph_pool = nullptr;
};

class Driver {
 public:
  std::mutex lock;
  State* state = nullptr;
  Process* process = nullptr;
  std::vector<std::unique_ptr<Device>> devices;
  AddressSpace space{uint64_t{0x2000'0000'0000}, uint64_t{0x3000'0000'0000}};
  AddressSpace low_space{uint64_t{0x0020'0000}, uint64_t{0xffe0'0000}};  // for 32-bit addresses
  std::map<uint64_t, std::unique_ptr<Range>> ranges;
  std::set<Capture*> captures;
  uint64_t next_id = 1;

  Device* device(CUdevice ordinal) {
    const bool good = ordinal >= 0 && ordinal < static_cast<CUdevice>(devices.size());
    return good ? devices[static_cast<size_t>(ordinal)].get() : nullptr;
  }
};

// The program's driver, from a successful cuInit on.
Driver& driver();

// The version that this driver reports, e.g. 13000.
extern "C" const int softmig_sim_driver_version;

enum class Needs { kNothing, kInit, kContext };

// Every exported function begins with one: faults, then whether the driver may be used, then its
// lock. __func__ is the name that rules of faults go by.
class Call {
 public:
  explicit Call(const char* function, Needs needs = Needs::kContext);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool failed() const { return code_ != CUDA_SUCCESS; }
  CUresult code() const { return code_; }
  Context* context() const { return context_; }
  Device* device() const { return context_->device; }

  // Refuses what must not happen during a capture of this thread's mode, and ends the capture.
  bool forbidden_in_capture();

  std::unique_lock<std::mutex>& lock() { return lock_; }

 private:
  CUresult code_ = CUDA_SUCCESS;
  Context* context_ = nullptr;
  std::unique_lock<std::mutex> lock_;
};

// --- contexts (context.cc)
Context* current_context();
std::vector<Context*>& context_stack();
// Makes the primary context alive if it is not. OUT_OF_MEMORY if there is no room.
CUresult wake_primary(Device* device);
// One reference less; the last one ends it.
CUresult release_primary(Call& call, Device* device);
// Memory that goes with the context: streams, stack, heap. False where there is no room.
bool take_for_context(Context* context, uint64_t bytes);
void give_for_context(Context* context, uint64_t bytes);

// --- ranges (memory.cc)
Range* find_range(uint64_t address);
Range* add_range(RangeKind kind, uint64_t base, uint64_t bytes, Device* device, Context* context);
// Takes pages (or a packed piece) in the context for an allocation. Returns the address, or 0.
uint64_t take_linear(Context* context, Arena* arena, uint64_t bytes, uint64_t alignment);
bool free_linear(uint64_t address);
Range* make_managed(Context* context, uint64_t bytes);  // null where the host has no room
void free_range(Range* range);                          // with what it holds
void free_context_memory(Context* context);

// A stretch of an allocation as seen from an address: what pointer queries answer with.
struct Extent {
  Range* range = nullptr;
  uint64_t base = 0;
  uint64_t bytes = 0;
};
bool find_extent(uint64_t address, Extent* extent);

// --- data (copy.cc)
CUresult copy_bytes(uint64_t to, uint64_t from, uint64_t bytes);
CUresult fill_bytes(uint64_t to, uint32_t value, unsigned int width, uint64_t count);
// The device uses managed memory: its pages move there, where there is room.
void touch_managed(Range* range, uint64_t address, uint64_t bytes);

// --- streams (stream.cc)
// The stream that a handle names; null and *code where there is none. `per_thread`: what 0 means.
Stream* find_stream(CUstream handle, bool per_thread, Context* context, CUresult* code);
Stream* make_stream(Context* context, unsigned int flags, int priority);
void retire_streams(Context* context);

// --- pools (pool.cc)
void make_default_pool(Device* device);
void release_pools(Device* device);  // at a synchronisation
void forget_pool_memory(Device* device);
// `before`: the work that may still use it.
bool free_pool_address(Range* range, uint64_t address, const Tickets& before, bool at_once);
bool find_pool_extent(Range* range, uint64_t address, Extent* extent);
Pool* pool_of(Range* range);

// --- virtual memory (vmm.cc)
bool find_mapping(Range* range, uint64_t address, Extent* extent, Storage** storage,
                  uint64_t* storage_offset, uint64_t* contiguous);

// --- graphs (graph_memory.cc)
bool free_graph_address(Range* range, uint64_t address);
bool find_graph_extent(Range* range, uint64_t address, Extent* extent);
void forget_graph_memory(Device* device);

// --- arrays, modules
void retire_arrays(Context* context);
void retire_modules(Context* context);

}  // namespace softmig::sim
