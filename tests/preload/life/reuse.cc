// Handles that the driver gives to somebody else before whoever ended them hears that it did: what
// was charged for either must neither be lost nor stay.
#include <dlfcn.h>

#include "life/life.h"

namespace softmig::preload_test {
namespace {

constexpr size_t kHeld = 64 * kMiB;
constexpr CUdeviceptr kPlace = CUdeviceptr{1} << 44;
constexpr char kImage[] = ".version 7.0\n.target sm_70\n.global .b8 g[67108864];\n";

void* g_library = nullptr;
void (*g_begin)() = nullptr;
CUmodule g_module = nullptr;

template <typename T>
T* find(const char* name) {
  void* found = dlsym(g_library, name);
  if (found == nullptr) exit(kSkipped);
  return reinterpret_cast<T*>(found);
}

#define SM_FIND(name) (*find<decltype(::name)>(#name))

// Ends what g_begin made: refused first, then while somebody else is given the same handle, and for
// good.
bool end_twice(const Driver& driver, size_t before, CUresult (*end)()) {
  auto* refusal = find<int>("fake_refusal");
  auto** after_end = find<void (*)()>("fake_after_end");
  const size_t held = free_bytes(driver);
  bool good = expect(held < before, "it is not charged");
  *refusal = CUDA_ERROR_INVALID_VALUE;
  good &= expect_result(end(), CUDA_ERROR_INVALID_VALUE, "a refused end");
  *refusal = CUDA_SUCCESS;
  good &= expect(free_bytes(driver) == held, "a refused end changed the charge");
  *after_end = g_begin;
  good &= expect_result(end(), CUDA_SUCCESS, "the first end");
  good &= expect(free_bytes(driver) == held, "the second one's charge");
  good &= expect_result(end(), CUDA_SUCCESS, "the second end");
  return good;
}

Driver open_all() {
  g_library = open_library();
  return start(g_library);
}

bool check(void (*begin)(), CUresult (*end)()) {
  const Driver driver = open_all();
  const size_t before = free_bytes(driver);
  g_begin = begin;
  begin();
  const bool good = end_twice(driver, before, end);
  return expect(free_bytes(driver) == before, "free at the end") && good;
}

CUmemGenericAllocationHandle g_handle = 0;

void create() {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  SM_FIND(cuMemCreate)(&g_handle, kHeld, &prop, 0);
}

bool reused_handle() {
  return check(create, [] { return SM_FIND(cuMemRelease)(g_handle); });
}

// Mappings of one memory, side by side: the memory goes with the last.
void map_only() {
  create();
  for (size_t at = 0; at < kHeld; at += kHeld / 8) {
    SM_FIND(cuMemMap)(kPlace + at, kHeld / 8, at, g_handle, 0);
  }
  SM_FIND(cuMemRelease)(g_handle);
}

bool reused_mapping() {
  return check(map_only, [] { return SM_FIND(cuMemUnmap)(kPlace, kHeld); });
}

bool reused_module() {
  return check(
      [] {
        SM_FIND(cuModuleLoadData)
        (&g_module, kImage);
      },
      [] { return SM_FIND(cuModuleUnload)(g_module); });
}

CUexternalMemory g_external = nullptr;

bool reused_external_memory() {
  return check(
      [] {
        CUDA_EXTERNAL_MEMORY_HANDLE_DESC desc{};
        desc.size = kHeld;
        SM_FIND(cuImportExternalMemory)(&g_external, &desc);
      },
      [] { return SM_FIND(cuDestroyExternalMemory)(g_external); });
}

CUcontext g_context = nullptr;

// Free memory can be asked for in a context only: the check keeps none but the one it tries.
bool reused_context() {
  open_all();
  Driver driver = find_functions(g_library);
  g_begin = [] {
    SM_FIND(cuCtxCreate_v2)(&g_context, 0, 0);
    SM_FIND(cuModuleLoadData)(&g_module, kImage);
  };
  driver.current_context(&g_context);
  SM_FIND(cuModuleLoadData)(&g_module, kImage);
  const size_t held = free_bytes(driver);
  bool good = end_twice(driver, held + 1, [] { return SM_FIND(cuCtxDestroy_v2)(g_context); });
  g_begin();
  return expect(free_bytes(driver) == held, "free beside a third context") && good;
}

CUipcMemHandle g_ipc;
CUdeviceptr g_import = 0;

bool reused_import() {
  const Driver driver = open_all();
  const size_t before = free_bytes(driver);
  CUdeviceptr address = 0;
  driver.alloc(&address, kHeld);
  SM_FIND(cuIpcGetMemHandle)(&g_ipc, address);
  g_begin = [] { SM_FIND(cuIpcOpenMemHandle_v2)(&g_import, g_ipc, 0); };
  g_begin();
  driver.free(address);
  const bool good =
      end_twice(driver, before, [] { return SM_FIND(cuIpcCloseMemHandle)(g_import); });
  return expect(free_bytes(driver) == before, "free at the end") && good;
}

}  // namespace

const Check kReuseChecks[] = {{"reused_handle", reused_handle},
                              {"reused_mapping", reused_mapping},
                              {"reused_context", reused_context},
                              {"reused_module", reused_module},
                              {"reused_external_memory", reused_external_memory},
                              {"reused_import", reused_import},
                              {nullptr, nullptr}};

}  // namespace softmig::preload_test
