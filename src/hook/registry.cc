#include "hook/registry.h"

#include <string.h>

// Made by the linker.
extern "C" {
[[gnu::visibility("hidden")]] extern const softmig::hook::Entry __start_softmig_hooks[];
[[gnu::visibility("hidden")]] extern const softmig::hook::Entry __stop_softmig_hooks[];
}

namespace softmig::hook {
namespace {

constexpr uint64_t kPerThreadStream = 2;

bool ends_with(const char* text, const char* tail) {
  const size_t length = strlen(text), tail_length = strlen(tail);
  return length >= tail_length && strcmp(text + length - tail_length, tail) == 0;
}

bool is_per_thread(const char* name) {
  return ends_with(name, "_ptsz") || ends_with(name, "_ptds");
}

// "cuMemAlloc" is the base of cuMemAlloc, cuMemAlloc_v2 and cuMemAlloc_ptsz, not of
// cuMemAllocAsync.
bool has_base(const char* name, const char* base) {
  const size_t length = strlen(base);
  if (strncmp(name, base, length) != 0) return false;
  const char* rest = name + length;
  return *rest == 0 || strncmp(rest, "_v", 2) == 0 || strncmp(rest, "_pt", 3) == 0;
}

}  // namespace

const Entry* begin() { return __start_softmig_hooks; }
const Entry* end() { return __stop_softmig_hooks; }

const Entry* find(const char* name) {
  if (!(name[0] == 'c' && name[1] == 'u') && !(name[0] == 'n' && name[1] == 'v')) return nullptr;
  for (const Entry* entry = begin(); entry != end(); entry++) {
    if (strcmp(entry->name(), name) == 0) return entry;
  }
  return nullptr;
}

const Entry* find_by_driver_address(void* address) {
  for (const Entry* entry = begin(); entry != end(); entry++) {
    if (*entry->next() == nullptr) *entry->next() = driver_symbol(entry->library(), entry->name());
    if (*entry->next() == address) return entry;
  }
  return nullptr;
}

const Entry* find_for_version(const char* name, int version, uint64_t flags) {
  // A function with a form for per-thread streams answers a per-thread caller with that form alone.
  bool only_per_thread = false;
  for (const Entry* entry = begin(); entry != end(); entry++) {
    only_per_thread |= (flags & kPerThreadStream) != 0 && is_per_thread(entry->name()) &&
                       has_base(entry->name(), name);
  }
  const Entry* best = nullptr;
  for (const Entry* entry = begin(); entry != end(); entry++) {
    if (entry->library() != Library::kCuda || entry->since() > version) continue;
    if (!has_base(entry->name(), name) || is_per_thread(entry->name()) != only_per_thread) continue;
    if (best == nullptr || entry->since() > best->since()) best = entry;
  }
  return best;
}

}  // namespace softmig::hook
