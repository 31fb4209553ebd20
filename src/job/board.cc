#include "job/board.h"

#include <errno.h>

#include "base/text.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::job {
namespace {

bool has(uint32_t mask, uint32_t slot) { return (mask >> slot & 1) != 0; }

}  // namespace

bool board_file(const char* directory, uint64_t device_key, uint32_t slot, char (&path)[kMaxPath]) {
  base::Text text(path);
  text.add(directory).add("/").add_hex(device_key, 16).add(".").add_number(slot);
  return !text.overflowed();
}

void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, SlotClaim claim) {
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < 32; slot++) {
    if (!has(mask, slot) || !board_file(directory, device_key, slot, path)) continue;
    sys::write_in_place(path, &claim, sizeof claim);
  }
}

BoardLook look_at_board(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                        uint64_t now) {
  BoardLook look;
  look.on_time = sys::exists(directory);
  if (!look.on_time) return look;
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < count && slot < 32; slot++) {
    if (has(skip, slot) || !board_file(directory, device_key, slot, path)) continue;
    const int fd = sys::open_untrusted(path);
    if (fd < 0 && errno != ENOENT) {
      look.on_time = false;
      continue;
    }
    SlotClaim claim = {};
    if (fd >= 0) {
      if (!sys::read_exactly(fd, &claim, sizeof claim, 0)) claim = {};
      sys::close_file(fd);
    }
    if (claim.until_ns <= now) look.open |= uint32_t{1} << slot;
    if (claim.late_until_ns > now) look.on_time = false;
  }
  return look;
}

}  // namespace softmig::job
