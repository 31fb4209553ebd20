// The state file: what the node's GPUs hold, shared by every process that uses them.
//
// A process that changes it holds the mutex; it may be killed at any instruction. So each fact
// stands once, in the row of the process or object that it belongs to, and is written with one
// store; a row becomes valid with the last store that makes it (its state) and invalid with the
// first that unmakes it. DeviceRow::used repeats a sum of the rows; whoever finds that the mutex's
// owner died computes it anew (State::recover).
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace softmig::sim {

constexpr int kMaxDevices = 16;
constexpr int kMaxProcesses = 2048;
constexpr int kMaxObjects = 16384;
constexpr int kMaxSharers = 64;
constexpr int kActivitySlots = 64;
constexpr uint64_t kActivitySlotNs = 100'000'000;

constexpr uint64_t kStateMagic = 0x314d495354464f53;  // "SOFTSIM1"
constexpr uint32_t kStateVersion = 1;

// Bytes of the file that are locked, far behind its end; open file description locks.
constexpr int64_t kImageLocks = int64_t{1} << 40;   // + index of a ProcessRow: its program runs
constexpr int64_t kExportLocks = int64_t{1} << 41;  // + index of an ObjectRow: a descriptor is open

// When kernels ran, of one process on one device: nanoseconds per slot of time (CLOCK_MONOTONIC),
// and the last unbroken stretch apart, which may reach into the future.
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
  std::atomic<uint64_t> listed_high;
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
  uint64_t accounting;
  uint64_t unknown;
  pthread_mutex_t mutex;                // robust, shared by processes
  std::atomic<uint32_t> processes_end;  // rows from here on were never used
  std::atomic<uint32_t> objects_end;
  std::atomic<uint32_t> next_nonce;
  std::atomic<uint64_t> recoveries;  // how often the owner of the mutex was found dead
  DeviceRow devices[kMaxDevices];
  ProcessRow processes[kMaxProcesses];
  ObjectRow objects[kMaxObjects];
};

}  // namespace softmig::sim
