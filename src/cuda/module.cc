// Modules and libraries: their `__device__` variables take memory when they are loaded, so the
// image is read first. What a compressed image hides is found from outside (docs/security.md).
#include "cuda/state.h"
#include "policy/image.h"
#include "sys/memory.h"

namespace softmig::cuda {
namespace {

constinit policy::Packing g_packing[job::kDeviceIndices];
constinit sys::Mutex g_lock[job::kDeviceIndices];

constexpr uint64_t kModuleStep = 64 * base::kKiB;  // each module's variables begin at such a step

uint64_t globals_at(const void* image) {
  if (image == nullptr) return 0;
  image = policy::unwrap(image);
  return policy::globals_in({static_cast<const uint8_t*>(image), policy::image_size(image)});
}

uint64_t globals_in_file(const char* path) {
  size_t size = 0;
  const uint8_t* data = path != nullptr ? sys::map_file(path, &size) : nullptr;
  if (data == nullptr) return 0;
  const uint64_t bytes = policy::globals_in({data, size});
  sys::unmap_pages(const_cast<uint8_t*>(data), size);
  return bytes;
}

void give_back(const Record& record) {
  if (!policy::Packing::packs(record.bytes)) {
    slice().release(record.device, in_pages(record.bytes));
    return;
  }
  g_lock[record.device].lock();
  slice().release(record.device, g_packing[record.device].remove(record.bytes));
  g_lock[record.device].unlock();
}

template <typename Handle, typename Call>
[[gnu::noinline]] CUresult load(Handle* out, uint64_t globals, Call call) {
  Place place;
  if (out == nullptr || globals == 0) return call();
  // A library is loaded without a context, and into each when it is used there.
  if (!current_place(&place)) place = {0, device_of(0)};
  if (place.device < 0) return call();
  if (globals > UINT64_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
  globals = base::round_up(globals, kModuleStep);
  const Record record{globals, 0, place.context, static_cast<int16_t>(place.device)};
  const auto keep = [&](CUresult result, auto commit) {
    if (result != CUDA_SUCCESS) return result;
    commit();
    keep_record(tables.modules, reinterpret_cast<uint64_t>(*out), record, give_back);
    return result;
  };
  if (policy::Packing::packs(globals)) {
    PackedCharge charge(&g_packing[place.device], &g_lock[place.device], place.device, globals);
    if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
    return keep(call(), [&] { charge.keep(); });
  }
  Charge charge(place.device, in_pages(globals));
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  return keep(call(), [&] { charge.keep(in_pages(globals)); });
}

template <typename Handle, typename Call>
CUresult unload(Handle handle, Call call) {
  return end_record(tables.modules, reinterpret_cast<uint64_t>(handle), call, give_back);
}

}  // namespace

void drop_modules(uint32_t context) {
  uint64_t handle;
  Record record;
  while (tables.modules.take_one_of(context, &handle, &record)) give_back(record);
}

}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::globals_at;
using softmig::cuda::globals_in_file;
using softmig::cuda::load;
using softmig::cuda::unload;

SM_HOOK(cuModuleLoad, 2000) CUresult cuModuleLoad(CUmodule* out, const char* path) {
  if (!active()) return next_cuModuleLoad(out, path);
  return load(out, globals_in_file(path), [=] { return next_cuModuleLoad(out, path); });
}

SM_HOOK(cuModuleLoadData, 2000) CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  if (!active()) return next_cuModuleLoadData(out, image);
  return load(out, globals_at(image), [=] { return next_cuModuleLoadData(out, image); });
}

SM_HOOK(cuModuleLoadDataEx, 2010)
CUresult cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned int count,
                            CUjit_option* options, void** values) {
  if (!active()) return next_cuModuleLoadDataEx(out, image, count, options, values);
  return load(out, globals_at(image),
              [=] { return next_cuModuleLoadDataEx(out, image, count, options, values); });
}

SM_HOOK(cuModuleLoadFatBinary, 2000)
CUresult cuModuleLoadFatBinary(CUmodule* out, const void* image) {
  if (!active()) return next_cuModuleLoadFatBinary(out, image);
  return load(out, globals_at(image), [=] { return next_cuModuleLoadFatBinary(out, image); });
}

SM_HOOK(cuModuleUnload, 2000) CUresult cuModuleUnload(CUmodule module) {
  if (!active()) return next_cuModuleUnload(module);
  return unload(module, [=] { return next_cuModuleUnload(module); });
}

SM_HOOK(cuLibraryLoadData, 12000)
CUresult cuLibraryLoadData(CUlibrary* out, const void* code, CUjit_option* jit, void** jit_values,
                           unsigned int jit_count, CUlibraryOption* options, void** values,
                           unsigned int count) {
  const auto call = [&] {
    return next_cuLibraryLoadData(out, code, jit, jit_values, jit_count, options, values, count);
  };
  if (!active()) return call();
  return load(out, globals_at(code), call);
}

SM_HOOK(cuLibraryLoadFromFile, 12000)
CUresult cuLibraryLoadFromFile(CUlibrary* out, const char* path, CUjit_option* jit,
                               void** jit_values, unsigned int jit_count, CUlibraryOption* options,
                               void** values, unsigned int count) {
  const auto call = [&] {
    return next_cuLibraryLoadFromFile(out, path, jit, jit_values, jit_count, options, values,
                                      count);
  };
  if (!active()) return call();
  return load(out, globals_in_file(path), call);
}

SM_HOOK(cuLibraryUnload, 12000) CUresult cuLibraryUnload(CUlibrary library) {
  if (!active()) return next_cuLibraryUnload(library);
  return unload(library, [=] { return next_cuLibraryUnload(library); });
}
