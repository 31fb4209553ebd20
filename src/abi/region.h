// The shared memory of one job: what every process of it has taken from every GPU.
//
// Layout only, no behaviour. The file is made sparse at its full size, so that it never has to be
// remapped; pages of slots that nobody uses are never backed. It holds use, never limits: limits
// come from root's config. Any process of the job may be killed at any instruction, so every fact
// that must not be torn is one 64-bit word, and a change of two words is made with a journal
// (policy/ledger.h). A process may also be hostile: readers check every value that they use.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace softmig::abi {

inline constexpr uint64_t kRegionMagic = 0x31474d54464f53ULL;  // "SOFTMG1"
inline constexpr uint32_t kRegionVersion = 4;
inline constexpr uint32_t kMaxDevices = 16;
inline constexpr uint32_t kMaxSlots = 32768;
inline constexpr uint32_t kReservedSlots = 16;  // have their blocks from the beginning
inline constexpr uint32_t kMaxObjects = 1024;
inline constexpr uint32_t kMaxHolders = 48;

// Memory is counted in units of 4 KiB: 32 bits then hold 16 TiB per device, and a counter, its
// writer and the writer's sequence number fit one word.
inline constexpr uint64_t kUnit = 4096;

// used:32 (units) | writer slot:16 | low half of the writer's sequence:16
using PackedUse = uint64_t;
// charged:32 (units) | sequence:32 (of the last completed change)
using PackedCharge = uint64_t;
// delta:32 (units, two's complement) | sequence:32
using PackedIntent = uint64_t;
// pid:22 | life:6 | start time, low 34 bits (clock ticks since boot): 0 means free. The life is
// another one after every execve. With bit 62: a claim, pid:22 | pid namespace:40
using PackedOwner = uint64_t;
inline constexpr uint32_t kPidMask = (uint32_t{1} << 22) - 1;
inline constexpr uint64_t kStartMask = (uint64_t{1} << 34) - 1;

struct alignas(64) RegionDevice {
  std::atomic<uint64_t> key;       // hash of the GPU's UUID, 0 while unused
  std::atomic<PackedUse> use;      // what all processes together hold
  std::atomic<uint64_t> peak;      // highest use ever seen, in units
  std::atomic<uint64_t> refusals;  // requests that were answered with OUT_OF_MEMORY
  uint64_t reserved[4];
};

// What one writer (a process, or an exported object) holds of one device, with its journal.
struct alignas(64) RegionAccount {
  std::atomic<PackedCharge> charge;
  std::atomic<PackedIntent> intent;
  std::atomic<uint64_t> applied;  // sequence of the last change seen in RegionDevice::use
  // Of the charge, in units, for who looks from outside: held by contexts : low 32 | ahead of what
  // pools were last seen to hold : high 32.
  std::atomic<uint64_t> parts;
  // Compute, of the slot's owner, or of the last one until there is another (objects have none).
  std::atomic<uint64_t> gpu_ns;     // GPU time charged
  std::atomic<uint64_t> waited_ns;  // time that launches waited at the gate
  std::atomic<uint64_t> launches;   // kernels, or lists of them for several devices
  std::atomic<uint64_t> graph_launches;
};

struct alignas(64) RegionSlot {
  std::atomic<PackedOwner> owner;       // a claim: the rest is not valid yet
  std::atomic<uint64_t> pid_namespace;  // inode of /proc/self/ns/pid
  std::atomic<uint32_t> uid;
  uint32_t reserved0;
  std::atomic<uint64_t> dead_owner;      // the owner, once somebody saw that it is dead,
  std::atomic<uint64_t> dead_since_ns;   // and when that was (CLOCK_MONOTONIC)
  std::atomic<uint64_t> image;           // where the program's code lies: execve changes it
  std::atomic<uint64_t> time_namespace;  // inode of /proc/self/ns/time: start times mean nothing
                                         // in another one
  uint64_t reserved;
  RegionAccount device[kMaxDevices];
};

// Memory that one process exported and others imported: it is charged once, to the object, until
// the last holder has let go or died. As a writer it has the number kMaxSlots + its index.
struct alignas(64) RegionObject {
  // 0 while free; with bit 62 being made, by this owner; else dying:1 | 0 | closing:1 | lap:8 |
  // hash:53 of the handle, or device and size
  std::atomic<uint64_t> key;
  std::atomic<uint32_t> device;
  uint32_t reserved0;
  uint64_t reserved[6];
  std::atomic<PackedOwner> holder[kMaxHolders];
  RegionAccount account;
};

// GPU time of one device, of all processes of the job (policy/share.h). Times are CLOCK_MONOTONIC.
struct alignas(64) RegionShare {
  std::atomic<uint64_t> paid_until_ns;    // up to here the job's share is spent
  std::atomic<uint64_t> queued_until_ns;  // when what is in flight should be done
  std::atomic<uint64_t> clock_ns;         // latest reading by anybody: falls only if the clock did
  std::atomic<uint64_t> last_user;        // slot:16 | time of its last timed work, in us
  std::atomic<uint64_t> hungry_ns;        // when the job last was seen to be able to fill its slots
  std::atomic<uint64_t> light_until_ns;   // it was seen not to be: until then nobody asks again
  std::atomic<uint64_t> coupled_ns;       // when it last waited for work on another device (NCCL)
  std::atomic<uint64_t> collectives;      // how many kernels did so
  // The job's turn (policy/turn.h): when it should begin, and when it does and ends, since others
  // were late; begun: open is turn. The last word of it to the board.
  std::atomic<uint64_t> turn_ns, turn_from_ns, turn_until_ns, turn_open_ns, turn_told_ns;
  std::atomic<int64_t> turn_spare_ns;  // of its length; negative: what earlier turns took beyond
  uint64_t reserved0[2];
  // As in RegionAccount, of those whose slots have other owners now.
  std::atomic<uint64_t> gpu_ns;
  std::atomic<uint64_t> waited_ns;
  std::atomic<uint64_t> launches;
  std::atomic<uint64_t> graph_launches;
  uint64_t reserved1[4];
};

// Which time of the last second and a half was charged already (policy/busy.h): work that overlaps
// is charged once. lap:16 | 6 cells of 8 bits, each kBusyCell long, charged in units of kBusyUnit.
inline constexpr uint32_t kBusyWords = 8192;
struct alignas(64) RegionBusy {
  std::atomic<uint64_t> word[kBusyWords];
};

struct RegionHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t header_size;
  uint32_t slot_size;
  uint32_t max_slots;
  uint32_t max_devices;
  std::atomic<uint32_t> high_water;  // slots ever used: scans stop there
  uint64_t created_ns;               // CLOCK_REALTIME
  uint64_t reserved[3];
  RegionDevice device[kMaxDevices];
};

struct Region {
  RegionHeader header;
  RegionShare share[kMaxDevices];
  RegionBusy busy[kMaxDevices];
  RegionObject object[kMaxObjects];
  RegionSlot slot[kMaxSlots];
};

inline constexpr size_t kRegionSize = sizeof(Region);

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(RegionDevice) == 64);
static_assert(sizeof(RegionAccount) == 64);
static_assert(sizeof(RegionObject) == 512);
static_assert(kMaxSlots + kMaxObjects <= 65536, "a writer's number must fit 16 bits");
static_assert(sizeof(RegionSlot) == 64 + 64 * kMaxDevices);
static_assert(offsetof(RegionHeader, device) == 64);
static_assert(sizeof(RegionShare) == 192);
static_assert(sizeof(RegionBusy) == 65536);
static_assert(offsetof(Region, share) == 64 + 64 * kMaxDevices);
static_assert(offsetof(Region, object) == offsetof(Region, share) + 65728 * kMaxDevices);

// What the driver holds for the job beyond the ledger (module code, streams, growth of contexts),
// measured from outside by the agent or by `softmig run`, written to "<region>.extra" by rename.
inline constexpr uint64_t kExtraMagic = 0x31585454464f53ULL;
struct ExtraPage {
  uint64_t magic;
  uint32_t version;
  uint32_t device_count;
  uint64_t written_ns;  // CLOCK_MONOTONIC
  struct {
    uint64_t key;    // as RegionDevice::key
    uint64_t bytes;  // to be added to the job's use
  } device[kMaxDevices];
};
static_assert(sizeof(ExtraPage) == 24 + 16 * kMaxDevices);

}  // namespace softmig::abi
