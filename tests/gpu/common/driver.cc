#include "common/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>

namespace softmig::gpu_test {
namespace {

constexpr int kVersions[] = {12000, 12010, 12020, 12030, 12040, 12050,
                             12060, 12070, 12080, 12090, 13000};

// A real name of a function: base name for cuGetProcAddress, symbol for everything else.
struct Name {
  const char* base;
  const char* symbol;
  int since;
  int until;
};

using ProcV1 = CUresult (*)(const char*, void**, int, cuuint64_t);
using ProcV2 = CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);

void* libcuda() {
  static void* const handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  return handle;
}

// The version to ask for so that the answer has this row's signature, or 0 if this caller's CUDA
// has none.
int version_for(const Name& name, int version) {
  if (version < name.since) return 0;
  return name.until != 0 ? std::min(version, name.until) : version;
}

void* ask_proc(const Name& name, const Lookup& lookup) {
  const int version = version_for(name, lookup.version);
  if (version == 0) return nullptr;
  void* found = nullptr;
  if (lookup.door == Door::kProc) {
    auto proc = reinterpret_cast<ProcV1>(dlsym(libcuda(), "cuGetProcAddress"));
    if (proc == nullptr || proc(name.base, &found, version, lookup.flags) != CUDA_SUCCESS)
      return nullptr;
    return found;
  }
  auto proc = reinterpret_cast<ProcV2>(dlsym(libcuda(), "cuGetProcAddress_v2"));
  CUdriverProcAddressQueryResult status{};
  if (proc != nullptr && lookup.door == Door::kProcNested) {
    void* nested = nullptr;
    if (proc("cuGetProcAddress", &nested, lookup.version, lookup.flags, &status) != CUDA_SUCCESS)
      return nullptr;
    proc = reinterpret_cast<ProcV2>(nested);
  }
  if (proc == nullptr || proc(name.base, &found, version, lookup.flags, &status) != CUDA_SUCCESS)
    return nullptr;
  return found;
}

void* find(const Name& name, void* linked, const Lookup& lookup) {
  switch (lookup.door) {
    case Door::kLink:
      return linked;
    case Door::kHandle:
      return dlsym(libcuda(), name.symbol);
    case Door::kDefault:
      return dlsym(RTLD_DEFAULT, name.symbol);
    case Door::kNext:
      return dlsym(RTLD_NEXT, name.symbol);
    case Door::kVersioned:
      return dlvsym(libcuda(), name.symbol, "ANY_VERSION");
    case Door::kProc:
    case Door::kProcV2:
    case Door::kProcNested:
      return ask_proc(name, lookup);
  }
  return nullptr;
}

}  // namespace
}  // namespace softmig::gpu_test

// Weak, so that one binary runs on drivers that lack some of them.
#ifdef SOFTMIG_LINKED
extern "C" {
#define SM_DRIVER(base, symbol, since, until) \
  extern decltype(::symbol) symbol __attribute__((weak));
#include "common/driver_functions.def"
#undef SM_DRIVER
}
#define SM_LINKED(symbol) reinterpret_cast<void*>(&::symbol)
#else
#define SM_LINKED(symbol) nullptr
#endif

namespace softmig::gpu_test {

bool load_driver(const Lookup& lookup, Driver* driver, std::string* error) {
  if (lookup.door != Door::kLink && libcuda() == nullptr) {
    *error = dlerror();
    return false;
  }
#define SM_DRIVER(base, symbol, since, until)             \
  driver->symbol = reinterpret_cast<decltype(&::symbol)>( \
      find({#base, #symbol, since, until}, SM_LINKED(symbol), lookup));
#include "common/driver_functions.def"
#undef SM_DRIVER
  if (driver->cuInit == nullptr) *error = "cuInit not found by " + lookup_name(lookup);
  return driver->cuInit != nullptr;
}

void load_from(void* handle, Driver* driver) {
#define SM_DRIVER(base, symbol, since, until) \
  driver->symbol = reinterpret_cast<decltype(&::symbol)>(dlsym(handle, #symbol));
#include "common/driver_functions.def"
#undef SM_DRIVER
}

bool parse_lookup(std::string_view text, Lookup* lookup) {
  static constexpr struct {
    std::string_view name;
    Door door;
  } kPlain[] = {{"link", Door::kLink},
                {"handle", Door::kHandle},
                {"default", Door::kDefault},
                {"next", Door::kNext},
                {"dlvsym", Door::kVersioned}};
  for (const auto& row : kPlain) {
    if (text == row.name) {
      *lookup = {row.door, 0, 0};
      return true;
    }
  }
  const size_t first = text.find(':');
  const size_t second = text.rfind(':');
  if (first == std::string_view::npos || second == first) return false;
  const std::string_view door = text.substr(0, first);
  if (door == "proc1")
    lookup->door = Door::kProc;
  else if (door == "proc2")
    lookup->door = Door::kProcV2;
  else if (door == "nested")
    lookup->door = Door::kProcNested;
  else
    return false;
  std::from_chars(text.data() + first + 1, text.data() + second, lookup->version);
  std::from_chars(text.data() + second + 1, text.data() + text.size(), lookup->flags);
  return lookup->version >= 2000;
}

std::string lookup_name(const Lookup& lookup) {
  std::string arguments(1, ':');
  arguments += std::to_string(lookup.version) + ':' + std::to_string(lookup.flags);
  switch (lookup.door) {
    case Door::kLink:
      return "link";
    case Door::kHandle:
      return "handle";
    case Door::kDefault:
      return "default";
    case Door::kNext:
      return "next";
    case Door::kVersioned:
      return "dlvsym";
    case Door::kProc:
      return "proc1" + arguments;
    case Door::kProcV2:
      return "proc2" + arguments;
    case Door::kProcNested:
      return "nested" + arguments;
  }
  return "?";
}

std::vector<Lookup> all_lookups() {
  std::vector<Lookup> all;
#ifdef SOFTMIG_LINKED
  all.push_back({Door::kLink, 0, 0});
#endif
  for (Door door : {Door::kHandle, Door::kDefault, Door::kNext, Door::kVersioned})
    all.push_back({door, 0, 0});
  for (int version : kVersions) {
    for (uint64_t flags : {0, 1, 2}) {
      all.push_back({Door::kProc, version, flags});
      all.push_back({Door::kProcV2, version, flags});
    }
    all.push_back({Door::kProcNested, version, 0});
  }
  return all;
}

}  // namespace softmig::gpu_test
