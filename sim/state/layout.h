// The state file: what the node's GPUs hold, shared by every process that uses them.
//
// A process that changes it holds the mutex; it may be killed at any instruction. So each fact
// stands once, in the row of the process or object that it belongs to, and is written with one
// store; a row becomes valid with the last store that makes it (its state) and invalid with the
// first that unmakes it. DeviceRow::used repeats a sum of the rows; whoever finds that the mutex's
// owner died computes it anew (State::recover). Of the schedule (schedule.h) a death may cost or
// give somebody the time between two of its events, no more.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace softmig::sim {

constexpr int kMaxDevices = 16;
constexpr int kMaxProcesses = 2048;
constexpr int kMaxObjects = 16384;
constexpr int kMaxSharers = 64;
constexpr int kMaxContexts = 1024;
constexpr int kMaxLanes = 4096;
constexpr int kLanesPerContext = 32;
constexpr int kQueuedOps = 1024;            // a launch waits while its lane holds that many
constexpr int kLaneOps = kQueuedOps + 128;  // with what goes with one launch
constexpr int kActivitySlots = 64;
constexpr uint64_t kActivitySlotNs = 100'000'000;

constexpr uint64_t kStateMagic = 0x314d495354464f53;  // "SOFTSIM1"
constexpr uint32_t kStateVersion = 3;

// Bytes of the file that are locked, far behind its end; open file description locks.
constexpr int64_t kImageLocks = int64_t{1} << 40;   // + index of a ProcessRow: its program runs
constexpr int64_t kExportLocks = int64_t{1} << 41;  // + index of an ObjectRow: a descriptor is open

// When kernels ran, of one process on one device: nanoseconds per slot of time (CLOCK_MONOTONIC),
// and the last unbroken stretch apart.
struct Activity {
  struct Slot {
    uint64_t number;
    uint64_t busy_ns;
  };
  Slot slots[kActivitySlots];
  uint64_t stretch_begin;
  uint64_t stretch_end;
};

struct Usage {
  std::atomic<uint64_t> listed;    // bytes that the process list shows
  std::atomic<uint64_t> unlisted;  // bytes taken from the device beside that
  std::atomic<uint32_t> attached;  // the process has initialised the driver on this device
  std::atomic<uint32_t> contexts;
  std::atomic<uint32_t> manages;  // it holds what the driver keeps for managed memory
  std::atomic<uint64_t> listed_high;
  uint64_t busy_ns;  // a kernel of the process was running
  uint64_t work_ns;  // what its kernels that ended take alone
  uint64_t kernels;  // that ended
  Activity activity;
};

enum class RowState : uint32_t { kFree = 0, kLive = 1 };

struct ProcessRow {
  std::atomic<RowState> state;
  std::atomic<uint32_t> generation;  // counts the processes that had this row
  int32_t pid;                       // in its own pid namespace
  uint32_t uid;
  uint64_t pid_namespace;  // inode
  uint64_t start_time;     // field 22 of /proc/pid/stat
  uint64_t since_ns;       // CLOCK_REALTIME
  char name[64];
  Usage usage[kMaxDevices];
};

// Device memory that more than one process can hold.
enum class ObjectKind : uint32_t {
  kVmm = 1,       // listed by its maker while that holds it, then by nobody
  kIpc = 2,       // listed by its maker, then by the first other holder
  kExternal = 3,  // brought in from another interface: listed by its first holder
  kPool = 4,      // a pool that was exported: no memory of its own
};

struct Sharer {
  std::atomic<uint32_t> count;  // 0: free
  uint32_t process;
  uint32_t generation;
};

struct ObjectRow {
  std::atomic<RowState> state;
  ObjectKind kind;
  uint32_t device;
  uint32_t nonce;
  uint64_t bytes;
  uint64_t key;    // kExternal: which file
  uint32_t maker;  // index of its ProcessRow
  uint32_t maker_generation;
  uint32_t exported;  // a descriptor was handed out: the lock tells whether one is still open
  Sharer sharers[kMaxSharers];
};

// --- work in the device's queues

enum class OpKind : uint8_t {
  kKernel,
  kMark,  // an event: takes no time, but its turn
  kWait,  // for an operation of another lane of the same process
  kHold,  // until the program lets it go: for a value in memory
};

struct Op {
  uint64_t work;     // kKernel: ns that it takes alone; kWait: the number of the other operation;
                     // kHold: 1 once it was let go
  uint64_t end_ns;   // when it was done (CLOCK_MONOTONIC)
  uint32_t fill;     // kKernel: part of the device that it fills, of kWhole; kWait: the other lane
  uint16_t kernels;  // that follow each other in it: a graph is one operation
  OpKind kind;
  int8_t priority;  // smaller goes first
};

constexpr uint32_t kWhole = 65536;

// How far a lane's first operation that is not done has come.
struct Head {
  uint64_t number;    // of the operation; any other: it has not begun
  uint64_t begun_ns;  // when it was there to run
  uint64_t since_ns;  // from here on it has had
  uint32_t share;     // that part of the device (of kWhole; 0: it does not run), and
  uint64_t left;      // that was left then of its work
};

// A queue of the hardware: its operations run one after the other. Numbers of operations begin with
// 1 and never repeat, whoever has the row.
struct LaneRow {
  std::atomic<RowState> state;
  uint32_t process;
  uint32_t generation;
  uint32_t context;
  std::atomic<uint64_t> tail;   // number of the last operation
  std::atomic<uint64_t> done;   // number of the last one that is done
  std::atomic<uint32_t> which;  // of the heads is true
  Head heads[2];
  Op ops[kLaneOps];  // by number modulo
};

struct ContextRow {
  std::atomic<RowState> state;
  uint32_t process;
  uint32_t generation;
  uint32_t device;
  std::atomic<uint32_t> lane_count;
  uint32_t lanes[kLanesPerContext];
};

// Which context has a device, and until when.
struct Engine {
  uint32_t resident;      // 1 + index of the context whose state is on the device; 0: none
  uint32_t cold;          // it has begun no kernel since it came
  uint64_t ready_ns;      // it runs from then on
  uint64_t slice_begin;   // of its time
  uint64_t slice_end;     // others wait for the device; 0: nobody does
  uint64_t refill_ns;     // while cold: when the next kernel within an operation begins; 0: never
  uint64_t busy_since;    // it has run kernels from then on; 0: it runs none
  uint64_t next_ns;       // when something changes next, ~0: never. Follows from the above
  uint32_t waits_abroad;  // lanes wait for lanes of other devices. Follows from the lanes
  uint64_t busy_ns;       // a kernel was running
  uint64_t switches;
};

struct DeviceRow {
  char name[96];
  uint8_t uuid[16];
  uint32_t pci_domain;
  uint32_t pci_bus;
  uint32_t pci_slot;
  uint32_t pci_device_id;
  uint64_t total;     // bytes, as NVML says it
  uint64_t reserved;  // part of total that nobody gets
  int32_t multiprocessors;
  int32_t threads_per_multiprocessor;
  int32_t major;
  int32_t minor;
  int32_t clock_khz;
  int32_t memory_clock_khz;
  int32_t bus_bits;
  int32_t l2_bytes;
  int32_t shared_per_multiprocessor;
  std::atomic<uint64_t> used;  // bytes, without reserved: derived
  Engine engine;
};

struct StateFile {
  std::atomic<uint64_t> magic;  // written last
  uint32_t version;
  uint32_t device_count;
  uint64_t context_listed;
  uint64_t context_unlisted;
  uint64_t base;
  uint64_t managed;
  uint64_t kernel_ns;
  uint64_t slice_ns;
  uint64_t switch_ns;
  uint64_t refill_ns;
  uint64_t accounting;
  uint64_t unknown;
  pthread_mutex_t mutex;                // robust, shared by processes
  std::atomic<uint32_t> processes_end;  // rows from here on were never used
  std::atomic<uint32_t> objects_end;
  std::atomic<uint32_t> contexts_end;
  std::atomic<uint32_t> lanes_end;
  std::atomic<uint32_t> next_nonce;
  std::atomic<uint64_t> recoveries;  // how often the owner of the mutex was found dead
  uint64_t looked_for_dead_ns;       // when somebody last did that for the schedule
  DeviceRow devices[kMaxDevices];
  ProcessRow processes[kMaxProcesses];
  ObjectRow objects[kMaxObjects];
  ContextRow contexts[kMaxContexts];
  LaneRow lanes[kMaxLanes];
};

}  // namespace softmig::sim
