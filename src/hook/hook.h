// SM_HOOK: one exported function that stands in front of a driver's, and its row in the registry.
//
//   SM_HOOK(cuMemAlloc_v2, 3020) CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
//     if (!active()) return next_cuMemAlloc_v2(out, bytes);
//     ...
//   }
//
// `since` is the CUDA version that brought this spelling (0 for NVML). The row goes into a linker
// section, so there is no list to keep in step. next_<name> calls the driver; without a driver it
// answers what a machine without one would.
//
// A row holds distances instead of addresses: an address would have to be relocated in each of the
// many processes that load the library and never look for a driver.
#pragma once

#include <cstdint>
#include <type_traits>

#include "abi/cuda.h"
#include "abi/nvml.h"
#include "job/slice.h"

namespace softmig::hook {

enum class Library : uint32_t { kCuda, kNvml };
// kCompute: look-ups give the driver's own function where no device has a limit of GPU time.
enum class Purpose : int16_t { kAlways = 0, kCompute = 1 };

// Never copied: what it says counts from where it lies.
class Entry {
 public:
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  const char* name() const { return at<const char>(name_); }
  void* hook() const { return at<void>(hook_); }
  void** next() const { return at<void*>(next_); }
  int since() const { return since_; }
  Purpose purpose() const { return purpose_; }
  Library library() const { return name()[0] == 'n' ? Library::kNvml : Library::kCuda; }

 private:
  template <typename T>
  static T* at(const int32_t& distance) {
    return reinterpret_cast<T*>(reinterpret_cast<intptr_t>(&distance) + distance);
  }
  int32_t name_, hook_, next_;
  int16_t since_;
  Purpose purpose_;
};
static_assert(sizeof(Entry) == 16);

// Address of the driver's own symbol, found by a walk of the loaded objects; null if the library is
// not loaded or has no such symbol.
void* driver_symbol(Library library, const char* name);
bool driver_is_loaded(Library library);
// Keeps the library where it is until the process ends: hooks that hold its addresses must not be
// left with them after a dlclose.
void pin_driver(Library library);

// The driver's function behind a hook, found at its first call. Names are types, so that the
// objects are nothing but zeroes: a library that every process loads must not need to be relocated.
template <typename Function, typename Name>
struct Next;

template <typename Name, typename Result, typename... Args>
struct Next<Result(Args...), Name> {
  static constexpr Library kLibrary =
      std::is_same_v<Result, nvmlReturn_t> ? Library::kNvml : Library::kCuda;
  void* pointer = nullptr;

  bool available() {
    if (pointer == nullptr) pointer = driver_symbol(kLibrary, Name::text());
    return pointer != nullptr;
  }
  Result operator()(Args... args) {
    if (__builtin_expect(pointer == nullptr, 0)) return find_and_call(args...);
    return reinterpret_cast<Result (*)(Args...)>(pointer)(args...);
  }

 private:
  [[gnu::noinline, gnu::cold]] Result find_and_call(Args... args) {
    if (available()) return reinterpret_cast<Result (*)(Args...)>(pointer)(args...);
    if constexpr (std::is_same_v<Result, nvmlReturn_t>) {
      return driver_is_loaded(kLibrary) ? NVML_ERROR_FUNCTION_NOT_FOUND
                                        : NVML_ERROR_LIBRARY_NOT_FOUND;
    } else {
      return driver_is_loaded(kLibrary) ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_NO_DEVICE;
    }
  }
};

inline bool active() { return job::slice().mode() == job::Mode::kActive; }
// Active now, or once there is memory for the ledger: who looks functions up keeps what he gets.
inline bool may_be_active() { return job::slice().mode() != job::Mode::kPassive; }
// Whether launches are to be held to a share of GPU time.
inline bool throttles() { return active() && job::slice().limits_compute(); }
inline bool is_wanted(const Entry& entry) {
  const job::Mode mode = job::slice().mode();
  if (mode != job::Mode::kActive) return mode == job::Mode::kUndecided;
  return entry.purpose() == Purpose::kAlways || job::slice().limits_compute();
}

}  // namespace softmig::hook

// A driver function that we call and do not hook. Its assembler name is for the row of SM_HOOK.
#define SM_DRIVER(fn)                                                                         \
  namespace {                                                                                 \
  struct name_of_##fn {                                                                       \
    static constexpr const char* text() { return #fn; }                                       \
  };                                                                                          \
  }                                                                                           \
  [[gnu::used]] static constinit softmig::hook::Next<std::remove_reference_t<decltype(::fn)>, \
                                                     name_of_##fn>                            \
      next_##fn asm("softmig_next_" #fn)

// C++ has no constant for the distance between two objects; the assembler has.
#define SM_ENTRY(fn, since, purpose)                                     \
  SM_DRIVER(fn);                                                         \
  asm(".pushsection .rodata.softmig_names, \"aMS\", %progbits, 1\n"      \
      ".Lsoftmig_name_" #fn ": .string \"" #fn                           \
      "\"\n"                                                             \
      ".popsection\n"                                                    \
      ".pushsection softmig_hooks, \"a\", %progbits\n"                   \
      ".balign 4\n"                                                      \
      ".long .Lsoftmig_name_" #fn " - ., " #fn " - ., softmig_next_" #fn \
      " - .\n"                                                           \
      ".short " #since ", " #purpose                                     \
      "\n"                                                               \
      ".popsection");                                                    \
  extern "C" [[gnu::visibility("default")]]

#define SM_HOOK(fn, since) SM_ENTRY(fn, since, 0)
// A hook that only a limit of GPU time needs.
#define SM_COMPUTE_HOOK(fn, since) SM_ENTRY(fn, since, 1)
