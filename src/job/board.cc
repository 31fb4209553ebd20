#include "job/board.h"

#include "base/text.h"
#include "job/region.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::job {
namespace {

bool path_of(const char* directory, uint64_t device_key, uint32_t slot, char (&path)[kMaxPath]) {
  base::Text text(path);
  text.add(directory).add("/").add_hex(device_key, 16).add(".").add_number(slot);
  return !text.overflowed();
}

bool has(uint32_t mask, uint32_t slot) { return (mask >> slot & 1) != 0; }

}  // namespace

void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, uint64_t until_ns) {
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < 32; slot++) {
    if (!has(mask, slot) || !path_of(directory, device_key, slot, path)) continue;
    sys::write_in_place(path, &until_ns, sizeof until_ns);
  }
}

uint32_t open_slots(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                    uint64_t now) {
  uint32_t open = 0;
  char path[kMaxPath];
  for (uint32_t slot = 0; slot < count && slot < 32; slot++) {
    if (has(skip, slot) || !path_of(directory, device_key, slot, path)) continue;
    uint64_t until_ns = 0;
    const int fd = sys::open_untrusted(path);
    if (fd < 0) continue;
    const bool claimed = sys::read_exactly(fd, &until_ns, sizeof until_ns, 0) && until_ns > now;
    sys::close_file(fd);
    if (!claimed) open |= uint32_t{1} << slot;
  }
  return open;
}

}  // namespace softmig::job
