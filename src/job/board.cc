#include "job/board.h"

#include <errno.h>

#include "base/text.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::job {
namespace {

constexpr uint64_t kClaimAt = 0, kTurnAt = 8;  // in a slot's file

bool has(uint32_t mask, uint32_t slot) { return (mask >> slot & 1) != 0; }

void write_word(const char* directory, uint64_t device_key, uint32_t slot, uint64_t offset,
                uint64_t word) {
  char path[kMaxPath];
  if (!board_file(directory, device_key, slot, path)) return;
  sys::write_in_place(path, &word, sizeof word, offset);
}

// 0 or an errno; a file that is too short says 0.
int read_word(const char* directory, uint64_t device_key, uint32_t slot, uint64_t offset,
              uint64_t* word) {
  char path[kMaxPath];
  if (!board_file(directory, device_key, slot, path)) return ENAMETOOLONG;
  const int fd = sys::open_untrusted(path);
  if (fd < 0) return errno;
  if (!sys::read_exactly(fd, word, sizeof *word, offset)) *word = 0;
  sys::close_file(fd);
  return 0;
}

}  // namespace

bool board_file(const char* directory, uint64_t device_key, uint32_t slot, char (&path)[kMaxPath]) {
  base::Text text(path);
  text.add(directory).add("/").add_hex(device_key, 16).add(".").add_number(slot);
  return !text.overflowed();
}

void claim_slots(const char* directory, uint64_t device_key, uint32_t mask, uint64_t until_ns) {
  for (uint32_t slot = 0; slot < 32; slot++) {
    if (has(mask, slot)) write_word(directory, device_key, slot, kClaimAt, until_ns);
  }
}

uint32_t open_slots(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                    uint64_t now) {
  if (!sys::exists(directory)) return 0;
  uint32_t open = 0;
  for (uint32_t slot = 0; slot < count && slot < 32; slot++) {
    if (has(skip, slot)) continue;
    uint64_t until_ns = 0;
    const int error = read_word(directory, device_key, slot, kClaimAt, &until_ns);
    if (error == ENOENT || (error == 0 && until_ns <= now)) open |= uint32_t{1} << slot;
  }
  return open;
}

void tell_turn(const char* directory, uint64_t device_key, const policy::Notice& notice) {
  write_word(directory, device_key, notice.slot, kTurnAt, notice.until_ns);
}

void read_turns(const char* directory, uint64_t device_key, uint32_t count, uint32_t skip,
                policy::TurnBoard& board) {
  for (uint32_t slot = 0; slot < count && slot < 32; slot++) {
    uint64_t until_ns = 0;
    if (!has(skip, slot)) read_word(directory, device_key, slot, kTurnAt, &until_ns);
    board.until_ns[slot].store(until_ns, std::memory_order_relaxed);
  }
}

}  // namespace softmig::job
