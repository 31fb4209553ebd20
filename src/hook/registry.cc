#include "hook/registry.h"

#include <string.h>

#include <atomic>

#include "hook/resolve.h"

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

bool begins_ending(const char* at) {
  return at[0] == '_' && (at[1] == 'v' || (at[1] == 'p' && at[2] == 't'));
}

// "cuMemAlloc" is the base of cuMemAlloc, cuMemAlloc_v2 and cuMemAlloc_ptsz, not of
// cuMemAllocAsync.
bool has_base(const char* name, const char* base) {
  const size_t length = strlen(base);
  if (strncmp(name, base, length) != 0) return false;
  const char* rest = name + length;
  return *rest == 0 || begins_ending(rest);
}

// The same for all names that share a base.
uint32_t hash_of_family(const char* name) {
  uint32_t hash = 5381;
  for (const char* at = name; *at != 0 && !begins_ending(at); at++) {
    hash = hash * 33 ^ static_cast<uint8_t>(*at);
  }
  return hash;
}

uint32_t hash_of_address(void* address) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) >> 4);
}

// Hash -> rows of the registry. Rows come in and never go out, so that threads may fill it at the
// same time and a fork child may go on where its parent was.
class Index {
 public:
  void add(uint32_t hash, const Entry* entry) {
    const auto row = static_cast<uint16_t>(entry - begin() + 1);
    for (uint32_t i = 0; i < kSlots; i++) {
      uint16_t found = 0;
      if (slot(hash, i).compare_exchange_strong(found, row) || found == row) return;
    }
  }

  // The first row added with this hash that `fits`, null if none does.
  template <typename Fits>
  const Entry* find(uint32_t hash, Fits fits) {
    for (uint32_t i = 0; i < kSlots; i++) {
      const uint16_t row = slot(hash, i).load(std::memory_order_acquire);
      if (row == 0) return nullptr;
      const Entry* entry = begin() + row - 1;
      if (fits(*entry)) return entry;
    }
    return nullptr;
  }

 private:
  // tests/abi/surface_test.py sees to it that there are at most half as many rows.
  static constexpr uint32_t kBits = 10, kSlots = 1 << kBits;

  std::atomic<uint16_t>& slot(uint32_t hash, uint32_t step) {
    return slots_[((hash * 0x9e3779b1 >> (32 - kBits)) + step) % kSlots];
  }

  std::atomic<uint16_t> slots_[kSlots] = {};
};

constinit Index g_families, g_addresses;
constinit std::atomic<bool> g_has_families{false};
constinit std::atomic<uint64_t> g_resolved_at{0};  // loads_so_far() when addresses were looked up

Index& families() {
  if (!g_has_families.load(std::memory_order_acquire)) {
    for (const Entry* entry = begin(); entry != end(); entry++) {
      g_families.add(hash_of_family(entry->name()), entry);
    }
    g_has_families.store(true, std::memory_order_release);
  }
  return g_families;
}

// For the many programs that look up other things.
bool may_be_the_drivers(const char* name) {
  return (name[0] == 'c' && name[1] == 'u' && name[2] >= 'A' && name[2] <= 'Z') ||
         strncmp(name, "nvml", 4) == 0;
}

const Entry* find_address(void* address) {
  return g_addresses.find(hash_of_address(address),
                          [&](const Entry& entry) { return *entry.next() == address; });
}

}  // namespace

const Entry* begin() { return __start_softmig_hooks; }
const Entry* end() { return __stop_softmig_hooks; }

const Entry* find(const char* name) {
  if (!may_be_the_drivers(name)) return nullptr;
  return families().find(hash_of_family(name),
                         [&](const Entry& entry) { return strcmp(entry.name(), name) == 0; });
}

const Entry* find_by_driver_address(void* address) {
  if (const Entry* entry = find_address(address)) return entry;
  // Functions that the driver lacks are looked for again only when something was loaded.
  const uint64_t loads = loads_so_far();
  if (loads != 0 && g_resolved_at.load(std::memory_order_acquire) == loads) return nullptr;
  resolve_hooks(Library::kCuda);
  for (const Entry* entry = begin(); entry != end(); entry++) {
    if (entry->library() != Library::kCuda || *entry->next() == nullptr) continue;
    g_addresses.add(hash_of_address(*entry->next()), entry);
  }
  g_resolved_at.store(loads, std::memory_order_release);
  return find_address(address);
}

const Entry* find_for_version(const char* name, int version, uint64_t flags) {
  const uint32_t hash = hash_of_family(name);
  // A function with a form for per-thread streams answers a per-thread caller with that form alone.
  const bool only_per_thread =
      (flags & kPerThreadStream) != 0 && families().find(hash, [&](const Entry& entry) {
        return is_per_thread(entry.name()) && has_base(entry.name(), name);
      }) != nullptr;
  const Entry* best = nullptr;
  families().find(hash, [&](const Entry& entry) {
    const bool fits = entry.library() == Library::kCuda && entry.since() <= version &&
                      has_base(entry.name(), name) &&
                      is_per_thread(entry.name()) == only_per_thread;
    if (fits && (best == nullptr || entry.since() > best->since())) best = &entry;
    return false;
  });
  return best;
}

}  // namespace softmig::hook
