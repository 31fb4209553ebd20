// The doors through which a program comes to a driver function: dlsym, dlvsym, cuGetProcAddress.
// (The fourth, the PLT of a program linked with libcuda, is the dynamic linker's own doing.)
#include <dlfcn.h>

#include "hook/registry.h"
#include "hook/resolve.h"
#include "job/log.h"

namespace softmig::hook {
namespace {

// What a door does with a look-up: give an answer, or jump to the system's function with everything
// as the caller left it (RTLD_NEXT and RTLD_DEFAULT depend on who calls).
struct Verdict {
  void* answer;
  void* jump;
};

// What the program gets for a symbol of ours, once it is known what the driver itself would give.
void* choose(const Entry& entry, void* drivers_own) {
  if (drivers_own == nullptr || !is_wanted(entry)) return drivers_own;
  pin_driver(entry.library());
  return entry.hook();
}

// `own_scope`: the caller's own scope may hold a driver that we do not see from here.
template <typename LookUp>
Verdict decide(void* handle, const char* name, void* system, bool own_scope, LookUp look_up) {
  const Entry* entry = name != nullptr ? find(name) : nullptr;
  if (entry == nullptr || system == nullptr) return {nullptr, system};
  void* found = look_up(handle);
  // Our own export stands before the driver's in the global scope: what comes after us was meant.
  if (found == entry->hook()) found = look_up(RTLD_NEXT);
  if (found == nullptr && own_scope && (handle == RTLD_DEFAULT || handle == RTLD_NEXT)) {
    found = driver_symbol(entry->library(), name);
  }
  if (found == nullptr) return {nullptr, nullptr};
  // Who asks for the next may be what we found, an interposer behind us: only the driver is safe.
  void* drivers = handle == RTLD_NEXT ? driver_symbol(entry->library(), name) : nullptr;
  if (drivers != nullptr) found = drivers;
  // The list of loaded objects is behind a lock that a fork child may find held: it is walked once.
  if (found != *entry->next()) {
    void* drivers_own = driver_symbol(entry->library(), name);
    if (found != drivers_own) return {found, nullptr};
    *entry->next() = drivers_own;
  }
  return {choose(*entry, found), nullptr};
}

}  // namespace

// Called by the assembly below.
extern "C" [[gnu::used]] Verdict softmig_decide_dlsym(void* handle, const char* name) {
  void* system = system_dlsym();
  return decide(handle, name, system, true, [&](void* where) {
    return reinterpret_cast<void* (*)(void*, const char*)>(system)(where, name);
  });
}

extern "C" [[gnu::used]] Verdict softmig_decide_dlvsym(void* handle, const char* name,
                                                       const char* version) {
  void* system = system_dlvsym();
  return decide(handle, name, system, false, [&](void* where) {
    return reinterpret_cast<void* (*)(void*, const char*, const char*)>(system)(where, name,
                                                                                version);
  });
}

// The driver says which of its functions answers to (name, version, flags), and ours is the one
// that stands before that. A spelling newer than this library is passed on, and said aloud in the
// log.
static void* replace(const char* name, void* drivers_own, int version, uint64_t flags) {
  if (drivers_own == nullptr || name == nullptr || !may_be_active()) return drivers_own;
  if (const Entry* entry = find_by_driver_address(drivers_own)) {
    return is_wanted(*entry) ? entry->hook() : drivers_own;
  }
  const Entry* expected = find_for_version(name, version, flags);
  if (expected != nullptr && is_wanted(*expected)) {
    job::log(job::LogLevel::kError, "cuGetProcAddress(%s, %d, %llu) is newer than %s: not limited",
             name, version, static_cast<unsigned long long>(flags), expected->name());
  }
  return drivers_own;
}

}  // namespace softmig::hook

using softmig::hook::replace;

SM_HOOK(cuGetProcAddress, 11030)
CUresult cuGetProcAddress(const char* symbol, void** pfn, int version, cuuint64_t flags) {
  const CUresult result = next_cuGetProcAddress(symbol, pfn, version, flags);
  if (result == CUDA_SUCCESS && pfn != nullptr) *pfn = replace(symbol, *pfn, version, flags);
  return result;
}

SM_HOOK(cuGetProcAddress_v2, 12000)
CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  const CUresult result = next_cuGetProcAddress_v2(symbol, pfn, version, flags, status);
  if (result == CUDA_SUCCESS && pfn != nullptr) *pfn = replace(symbol, *pfn, version, flags);
  return result;
}

// Both doors: ask for a verdict with the arguments kept, then return it or jump on.
#if defined(__x86_64__)
asm(R"(
  .text
  .globl dlsym
  .type dlsym, @function
dlsym:
  endbr64
  push %rdi
  push %rsi
  sub $8, %rsp
  call softmig_decide_dlsym
  add $8, %rsp
  pop %rsi
  pop %rdi
  test %rdx, %rdx
  jnz 1f
  ret
1: jmp *%rdx
  .size dlsym, . - dlsym

  .globl dlvsym
  .type dlvsym, @function
dlvsym:
  endbr64
  push %rdi
  push %rsi
  push %rdx
  call softmig_decide_dlvsym
  mov %rdx, %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  test %rcx, %rcx
  jnz 1f
  ret
1: jmp *%rcx
  .size dlvsym, . - dlvsym
)");
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl dlsym
  .type dlsym, %function
dlsym:
  hint #34
  stp x29, x30, [sp, #-32]!
  stp x0, x1, [sp, #16]
  bl softmig_decide_dlsym
  mov x16, x1
  mov x17, x0
  ldp x0, x1, [sp, #16]
  ldp x29, x30, [sp], #32
  cbz x16, 1f
  br x16
1: mov x0, x17
  ret
  .size dlsym, . - dlsym

  .globl dlvsym
  .type dlvsym, %function
dlvsym:
  hint #34
  stp x29, x30, [sp, #-48]!
  stp x0, x1, [sp, #16]
  str x2, [sp, #32]
  bl softmig_decide_dlvsym
  mov x16, x1
  mov x17, x0
  ldp x0, x1, [sp, #16]
  ldr x2, [sp, #32]
  ldp x29, x30, [sp], #48
  cbz x16, 1f
  br x16
1: mov x0, x17
  ret
  .size dlvsym, . - dlvsym
)");
#else
#error "dlsym and dlvsym need a few lines of assembly for this processor"
#endif
