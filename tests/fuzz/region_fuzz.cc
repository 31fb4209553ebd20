// A region in which the job's user has written what he liked: for the ledger, the shares of GPU
// time and everybody who reads the file (agent, command line). The input is a list of words and
// where they lie; then a process joins, charges, exports, takes back everybody and is looked at.
// Nothing may crash, hang, or write outside; what is granted stays within the limit.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "fuzz.h"
#include "host/region_look.h"
#include "policy/busy.h"
#include "policy/ledger.h"
#include "policy/share.h"

using namespace softmig;

namespace {

constexpr uint64_t kLimit = 1 << 20;
constexpr uint64_t kNow = 1'000'000'000'000;

struct File {
  File() {
    fd = memfd_create("region", 0);
    path = "/proc/self/fd/" + std::to_string(fd);
    fuzz::must(ftruncate(fd, abi::kRegionSize) == 0);
    void* map = mmap(nullptr, abi::kRegionSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fuzz::must(map != MAP_FAILED);
    region = static_cast<abi::Region*>(map);
  }
  void empty() const {
    fuzz::must(ftruncate(fd, 0) == 0 && ftruncate(fd, abi::kRegionSize) == 0);
    auto& header = region->header;
    header.magic = abi::kRegionMagic;
    header.version = abi::kRegionVersion;
    header.header_size = sizeof header;
    header.slot_size = sizeof(abi::RegionSlot);
    header.max_slots = abi::kMaxSlots;
    header.max_devices = abi::kMaxDevices;
  }
  int fd = -1;
  std::string path;
  abi::Region* region = nullptr;
};

// Where it matters: the beginnings of all tables, or anywhere.
size_t place_of(uint8_t table, uint16_t at) {
  switch (table % 6) {
    case 0:
      return at % sizeof(abi::RegionHeader);
    case 1:
      return offsetof(abi::Region, share) + at % sizeof(abi::RegionShare);
    case 2:
      return offsetof(abi::Region, busy) + at % 256;
    case 3:
      return offsetof(abi::Region, object) + at % (3 * sizeof(abi::RegionObject));
    case 4:
      return offsetof(abi::Region, slot) + at % (4 * sizeof(abi::RegionSlot));
    default:
      return size_t{at} * 560 % (abi::kRegionSize - 8);
  }
}

void overwrite(abi::Region* region, const uint8_t* data, size_t size) {
  for (; size >= 11; data += 11, size -= 11) {
    uint16_t at = 0;
    std::memcpy(&at, data + 1, sizeof at);
    std::memcpy(reinterpret_cast<char*>(region) + place_of(data[0], at) / 8 * 8, data + 3, 8);
  }
}

void live(abi::Region& region) {
  const auto self = policy::pack_owner(4242, 7);
  const int slot = policy::claim_slot(region, {.owner = self, .pid_namespace = 1});
  if (slot < 0) return;
  const auto writer = static_cast<uint32_t>(slot);
  auto& use = region.header.device[0].use;
  if (policy::change_use(region, writer, 0, 8, kLimit) == policy::Change::kDone)
    fuzz::must(policy::used_units(use.load()) <= kLimit);
  const int object = policy::make_object(region, 5, writer, 0, 8, self);
  policy::hold_object(region, 5, self);
  policy::hold_marked_object(region, 1, 0, self);
  if (object >= 0) policy::drop_object(region, static_cast<uint32_t>(object), self);
  policy::region_device(region, 99);
  const uint32_t high = region.header.high_water.load();
  for (uint32_t i = 0; i < high && i < 64; i++) {
    const auto owner = region.slot[i].owner.load();
    policy::note_death(region.slot[i], owner, kNow);
    if (owner != 0) policy::reclaim_slot(region, i, owner);
  }
}

void use_gpu(abi::Region& region) {
  const policy::ShareRule rule = {
      .percent = 25, .mode = policy::ShareMode::kFill, .slot_mask = 1, .slot_count = 4};
  auto& share = region.share[0];
  // A forged account may hold a job back, which is its own; the answer is always a time.
  for (int i = 0; i < 3; i++) policy::admit(share, rule, 50'000, kNow + i, i > 0);
  policy::charge(share, rule, UINT64_MAX, kNow);
  policy::refund(share, rule, 1000);
  policy::note_demand(share, rule, {.gpu_ns = 1, .free_ns = 2, .confined = true}, kNow);
  policy::is_light(share, rule, kNow);
  policy::is_at_ease(share, rule, kNow);
  fuzz::must(policy::pour(region.busy[0], kNow, kNow + 100'000, 50'000) <= 50'000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const File file;
  file.empty();
  overwrite(file.region, data, size);
  const auto look = host::look_at_region("/dev/null", "/proc");
  fuzz::must(look.status == job::ViewStatus::kForeign);
  static job::RegionView view;
  static job::ViewedProcess processes[8];
  job::view_region(file.path.c_str(), "/proc", &view, processes, 8);
  fuzz::must(view.process_count >= 0 && view.process_count <= 8);
  live(*file.region);
  use_gpu(*file.region);
  job::view_region(file.path.c_str(), nullptr, &view, processes, 8);
  return 0;
}
