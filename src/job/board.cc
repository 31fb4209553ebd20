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

void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, uint64_t until_ns) {
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < 32; slot++) {
    if (!has(mask, slot) || !board_file(directory, device_key, slot, path)) continue;
    sys::write_in_place(path, &until_ns, sizeof until_ns);
  }
}

uint32_t open_slots(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                    uint64_t now) {
  if (!sys::exists(directory)) return 0;
  uint32_t open = 0;
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < count && slot < 32; slot++) {
    if (has(skip, slot) || !board_file(directory, device_key, slot, path)) continue;
    uint64_t until_ns = 0;
    const int fd = sys::open_untrusted(path);
    if (fd < 0 && errno != ENOENT) continue;
    const bool claimed =
        fd >= 0 && sys::read_exactly(fd, &until_ns, sizeof until_ns, 0) && until_ns > now;
    if (fd >= 0) sys::close_file(fd);
    if (!claimed) open |= uint32_t{1} << slot;
  }
  return open;
}

}  // namespace softmig::job
