// The driver as the test programs see it: one typed pointer per function, found through whichever
// door a test asks for. A door is the way in which a real program comes to hold a driver function.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "abi/cuda.h"

namespace softmig::gpu_test {

struct Driver {
#define SM_DRIVER(base, symbol, since, until) decltype(&::symbol) symbol = nullptr;
#include "common/driver_functions.def"
#undef SM_DRIVER
};

enum class Door {
  kLink,        // the program is linked with libcuda.so.1
  kHandle,      // dlsym on a handle of dlopen
  kDefault,     // dlsym(RTLD_DEFAULT)
  kNext,        // dlsym(RTLD_NEXT)
  kVersioned,   // dlvsym: libcuda has no symbol versions, any version string finds the function
  kProc,        // cuGetProcAddress of CUDA 11.3: four arguments
  kProcV2,      // cuGetProcAddress_v2: five arguments
  kProcNested,  // cuGetProcAddress_v2 that was itself found with cuGetProcAddress, as cudart does
};

struct Lookup {
  Door door = Door::kHandle;
  int version = 0;     // CUDA version asked for, cuGetProcAddress only
  uint64_t flags = 0;  // 0 default, 1 legacy stream, 2 per-thread default stream
};

// "link", "handle", "default", "next", "dlvsym", "proc1:12000:1", "proc2:13000:2",
// "nested:12040:0".
bool parse_lookup(std::string_view text, Lookup* lookup);
std::string lookup_name(const Lookup& lookup);

// Every door; cuGetProcAddress with every version from 12.0 to 13.0 and all stream flags.
std::vector<Lookup> all_lookups();

// Fills *driver. A function that this driver (or CUDA version) does not have stays null. Returns
// false, with a text, only if the door itself is closed: no libcuda, or not even cuInit found.
bool load_driver(const Lookup& lookup, Driver* driver, std::string* error);
// Fills *driver by dlsym on a handle of the caller's own.
void load_from(void* handle, Driver* driver);

}  // namespace softmig::gpu_test
