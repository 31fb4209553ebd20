#include "hook/resolve.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>

#include "hook/registry.h"
#include "sys/self.h"

namespace softmig::hook {
namespace {

// The dynamic section of one loaded object, as far as a look-up by name needs it.
struct Object {
  ElfW(Addr) base = 0;
  const ElfW(Sym) * symbols = nullptr;
  const char* strings = nullptr;
  const uint32_t* gnu_hash = nullptr;
  const uint32_t* sysv_hash = nullptr;
  const uint16_t* versions = nullptr;
};

// glibc has relocated these addresses in place, other loaders have not.
template <typename T>
const T* at(ElfW(Addr) base, ElfW(Addr) address) {
  return reinterpret_cast<const T*>(address < base ? base + address : address);
}

bool read_dynamic(ElfW(Addr) base, const ElfW(Dyn) * dynamic, Object* object) {
  if (dynamic == nullptr) return false;
  object->base = base;
  for (; dynamic->d_tag != DT_NULL; dynamic++) {
    const ElfW(Addr) address = dynamic->d_un.d_ptr;
    switch (dynamic->d_tag) {
      case DT_SYMTAB:
        object->symbols = at<ElfW(Sym)>(object->base, address);
        break;
      case DT_STRTAB:
        object->strings = at<char>(object->base, address);
        break;
      case DT_GNU_HASH:
        object->gnu_hash = at<uint32_t>(object->base, address);
        break;
      case DT_HASH:
        object->sysv_hash = at<uint32_t>(object->base, address);
        break;
      case DT_VERSYM:
        object->versions = at<uint16_t>(object->base, address);
        break;
      default:
        break;
    }
  }
  return object->symbols != nullptr && object->strings != nullptr;
}

// Hidden versions (bit 15) are old spellings kept for old programs: dlsym does not find them
// either.
bool is_match(const Object& object, uint32_t index, const char* name) {
  const ElfW(Sym)& symbol = object.symbols[index];
  if (symbol.st_shndx == SHN_UNDEF || symbol.st_value == 0) return false;
  if (object.versions != nullptr && (object.versions[index] & 0x8000) != 0) return false;
  return strcmp(object.strings + symbol.st_name, name) == 0;
}

void* address_of(const Object& object, uint32_t index) {
  const ElfW(Sym)& symbol = object.symbols[index];
  const ElfW(Addr) address = object.base + symbol.st_value;
  if (ELF64_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC) {
    return reinterpret_cast<void* (*)()>(address)();
  }
  return reinterpret_cast<void*>(address);
}

void* look_up_gnu(const Object& object, const char* name) {
  uint32_t hash = 5381;
  for (const char* c = name; *c != 0; c++) hash = hash * 33 + static_cast<uint8_t>(*c);
  const uint32_t buckets = object.gnu_hash[0], first = object.gnu_hash[1];
  const uint32_t bloom_words = object.gnu_hash[2];
  const uint32_t* bucket =
      object.gnu_hash + 4 + bloom_words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
  const uint32_t* chain = bucket + buckets;
  if (buckets == 0) return nullptr;
  uint32_t index = bucket[hash % buckets];
  if (index < first) return nullptr;
  for (;; index++) {
    const uint32_t other = chain[index - first];
    if ((other | 1) == (hash | 1) && is_match(object, index, name))
      return address_of(object, index);
    if ((other & 1) != 0) return nullptr;
  }
}

void* look_up_sysv(const Object& object, const char* name) {
  uint32_t hash = 0;
  for (const char* c = name; *c != 0; c++) {
    hash = (hash << 4) + static_cast<uint8_t>(*c);
    hash = (hash ^ (hash >> 24 & 0xf0)) & 0x0fffffff;
  }
  const uint32_t buckets = object.sysv_hash[0];
  const uint32_t* bucket = object.sysv_hash + 2;
  const uint32_t* chain = bucket + buckets;
  if (buckets == 0) return nullptr;
  for (uint32_t index = bucket[hash % buckets]; index != 0; index = chain[index]) {
    if (is_match(object, index, name)) return address_of(object, index);
  }
  return nullptr;
}

void* look_up(const Object& object, const char* name) {
  if (object.gnu_hash != nullptr) return look_up_gnu(object, name);
  return object.sysv_hash != nullptr ? look_up_sysv(object, name) : nullptr;
}

// One walk: through all objects whose file name begins with one of the prefixes.
struct Search {
  const char* prefix;
  const char* second_prefix;
  bool (*take)(const Object& object, void* data);  // true ends the walk
  void* data;
};

bool has_prefix(const char* path, const char* prefix) {
  if (path == nullptr || prefix == nullptr) return false;
  const char* slash = strrchr(path, '/');
  return strncmp(slash != nullptr ? slash + 1 : path, prefix, strlen(prefix)) == 0;
}

// Looks into one object; true ends the walk.
bool look_into(const char* path, ElfW(Addr) base, const ElfW(Dyn) * dynamic, const Search& search) {
  if (!has_prefix(path, search.prefix) && !has_prefix(path, search.second_prefix)) return false;
  Object object;
  return read_dynamic(base, dynamic, &object) && search.take(object, search.data);
}

const ElfW(Dyn) * dynamic_of(ElfW(Addr) base, const ElfW(Phdr) * headers, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (headers[i].p_type == PT_DYNAMIC) {
      return reinterpret_cast<const ElfW(Dyn)*>(base + headers[i].p_vaddr);
    }
  }
  return nullptr;
}

int visit(dl_phdr_info* info, size_t, void* data) {
  const ElfW(Dyn)* dynamic = dynamic_of(info->dlpi_addr, info->dlpi_phdr, info->dlpi_phnum);
  return look_into(info->dlpi_name, info->dlpi_addr, dynamic, *static_cast<const Search*>(data));
}

// The list that the dynamic linker keeps for debuggers, found through the program's own headers.
const link_map* debuggers_list() {
  const auto* headers = reinterpret_cast<const ElfW(Phdr)*>(getauxval(AT_PHDR));
  const size_t count = getauxval(AT_PHNUM);
  if (headers == nullptr) return nullptr;
  ElfW(Addr) base = 0;
  for (size_t i = 0; i < count; i++) {
    if (headers[i].p_type == PT_PHDR) {
      base = reinterpret_cast<ElfW(Addr)>(headers) - headers[i].p_vaddr;
    }
  }
  const ElfW(Dyn)* dynamic = dynamic_of(base, headers, count);
  for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; dynamic++) {
    if (dynamic->d_tag == DT_DEBUG && dynamic->d_un.d_ptr != 0) {
      return reinterpret_cast<const r_debug*>(dynamic->d_un.d_ptr)->r_map;
    }
  }
  return nullptr;
}

// dl_iterate_phdr holds a lock that a fork child inherits held, if another thread was inside: then
// the child, alone when it comes here first, walks the list without it.
constinit std::atomic<int> g_walkers{0};
constinit std::atomic<int> g_walkers_pid{0};

// False, and nothing was called: the lock cannot be had.
bool iterate(int (*callback)(dl_phdr_info*, size_t, void*), void* data) {
  const int pid = sys::pid();
  if (g_walkers.load() != 0 && g_walkers_pid.load() != pid) return false;
  g_walkers_pid.store(pid);
  g_walkers.fetch_add(1);
  dl_iterate_phdr(callback, data);
  g_walkers.fetch_sub(1);
  return true;
}

void walk(Search search) {
  if (iterate(visit, &search)) return;
  for (const link_map* map = debuggers_list(); map != nullptr; map = map->l_next) {
    if (look_into(map->l_name, map->l_addr, map->l_ld, search)) break;
  }
}

struct Wanted {
  const char* name;
  void* found;
};

bool take_symbol(const Object& object, void* data) {
  auto* wanted = static_cast<Wanted*>(data);
  wanted->found = look_up(object, wanted->name);
  return wanted->found != nullptr;
}

bool take_hooks(const Object& object, void* data) {
  const Library library = *static_cast<const Library*>(data);
  bool all = true;
  for (const Entry* entry = begin(); entry != end(); entry++) {
    if (entry->library() != library || *entry->next() != nullptr) continue;
    *entry->next() = look_up(object, entry->name());
    all &= *entry->next() != nullptr;
  }
  return all;
}

bool take_any(const Object&, void* data) {
  *static_cast<bool*>(data) = true;
  return true;
}

int count_loads(dl_phdr_info* info, size_t size, void* data) {
  if (size >= offsetof(dl_phdr_info, dlpi_adds) + sizeof info->dlpi_adds) {
    *static_cast<uint64_t*>(data) = info->dlpi_adds;
  }
  return 1;
}

void* symbol_in(const char* prefix, const char* second_prefix, const char* name) {
  Wanted wanted{name, nullptr};
  walk({prefix, second_prefix, take_symbol, &wanted});
  return wanted.found;
}

constexpr const char* file_prefix(Library library) {
  return library == Library::kCuda ? "libcuda.so" : "libnvidia-ml.so";
}

void* system_function(std::atomic<void*>& cache, const char* name) {
  void* address = cache.load(std::memory_order_relaxed);
  if (address == nullptr) {
    address = symbol_in("libc.so", "libdl.so", name);
    if (address == nullptr) address = symbol_in("ld-musl-", nullptr, name);
    cache.store(address, std::memory_order_relaxed);
  }
  return address;
}

constinit std::atomic<void*> g_dlsym{nullptr}, g_dlvsym{nullptr}, g_dlopen{nullptr};
constinit std::atomic<bool> g_pinned[2] = {};

}  // namespace

void* driver_symbol(Library library, const char* name) {
  return symbol_in(file_prefix(library), nullptr, name);
}

bool driver_is_loaded(Library library) {
  bool loaded = false;
  walk({file_prefix(library), nullptr, take_any, &loaded});
  return loaded;
}

void resolve_hooks(Library library) { walk({file_prefix(library), nullptr, take_hooks, &library}); }

uint64_t loads_so_far() {
  uint64_t count = 0;
  iterate(count_loads, &count);
  return count;
}

void pin_driver(Library library) {
  if (g_pinned[static_cast<int>(library)].exchange(true, std::memory_order_relaxed)) return;
  constexpr int kNoLoad = 4, kLazy = 1, kNoDelete = 0x1000;  // of dlfcn.h, the same everywhere
  const char* name = library == Library::kCuda ? "libcuda.so.1" : "libnvidia-ml.so.1";
  if (void* open = system_dlopen()) {
    reinterpret_cast<void* (*)(const char*, int)>(open)(name, kNoLoad | kLazy | kNoDelete);
  }
}

void* system_dlsym() { return system_function(g_dlsym, "dlsym"); }
void* system_dlvsym() { return system_function(g_dlvsym, "dlvsym"); }
void* system_dlopen() { return system_function(g_dlopen, "dlopen"); }

}  // namespace softmig::hook
