// Memory that another process allocated: legacy IPC handles and external memory.
#include "cuda/state.h"

SM_DRIVER(cuMemGetAddressRange_v2);

namespace softmig::cuda {
namespace {

uint64_t hash_of(const void* data, size_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < size; i++) {
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  }
  return hash;
}

// From now on other processes may keep this memory alive after we free it. What shares its page
// with something else stays in our own name: the page is not the importer's alone.
void share(CUdeviceptr address, const CUipcMemHandle& handle) {
  CUdeviceptr base = address;
  size_t bytes = 0;
  if (next_cuMemGetAddressRange_v2(&base, &bytes, address) != CUDA_SUCCESS) return;
  tables.pointers.update(base, [&](Record& record) {
    if (record.object >= 0 || record.bytes < kPage) return true;
    record.object = static_cast<int16_t>(slice().make_object(
        hash_of(&handle, sizeof handle), record.device, in_pages(record.bytes)));
    return true;
  });
}

template <typename Call>
[[gnu::noinline]] CUresult open(CUdeviceptr* out, const CUipcMemHandle& handle, Call call) {
  const CUresult result = call();
  if (!active() || result != CUDA_SUCCESS) return result;
  const int object = slice().hold_object(hash_of(&handle, sizeof handle));
  if (object >= 0) tables.imports.insert(*out, {0, 0, 0, -1, static_cast<int16_t>(object)});
  return result;
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::active;
using softmig::cuda::Record;
using softmig::cuda::tables;

SM_HOOK(cuIpcGetMemHandle, 4010)
CUresult cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address) {
  const CUresult result = next_cuIpcGetMemHandle(out, address);
  if (active() && result == CUDA_SUCCESS) softmig::cuda::share(address, *out);
  return result;
}

SM_HOOK(cuIpcOpenMemHandle, 4010)
CUresult cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle handle, unsigned int flags) {
  return softmig::cuda::open(out, handle,
                             [=] { return next_cuIpcOpenMemHandle(out, handle, flags); });
}

SM_HOOK(cuIpcOpenMemHandle_v2, 11000)
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* out, CUipcMemHandle handle, unsigned int flags) {
  return softmig::cuda::open(out, handle,
                             [=] { return next_cuIpcOpenMemHandle_v2(out, handle, flags); });
}

SM_HOOK(cuIpcCloseMemHandle, 4010) CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  const auto call = [=] { return next_cuIpcCloseMemHandle(address); };
  if (!active()) return call();
  return end_record(tables.imports, address, call, [](const Record& record) {
    softmig::cuda::slice().drop_object(record.object);
  });
}

SM_HOOK(cuImportExternalMemory, 10000)
CUresult cuImportExternalMemory(CUexternalMemory* out,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* desc) {
  softmig::cuda::Place place;
  if (!active() || desc == nullptr || !softmig::cuda::current_place(&place)) {
    return next_cuImportExternalMemory(out, desc);
  }
  const uint64_t pages = softmig::cuda::in_pages(desc->size);
  softmig::cuda::Charge charge(place.device, pages);
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = next_cuImportExternalMemory(out, desc);
  if (result != CUDA_SUCCESS) return result;
  charge.keep(pages);
  tables.external.insert(reinterpret_cast<uint64_t>(*out),
                         {pages, 0, place.context, static_cast<int16_t>(place.device)});
  return result;
}

SM_HOOK(cuDestroyExternalMemory, 10000)
CUresult cuDestroyExternalMemory(CUexternalMemory memory) {
  const auto call = [=] { return next_cuDestroyExternalMemory(memory); };
  if (!active()) return call();
  return end_record(
      tables.external, reinterpret_cast<uint64_t>(memory), call,
      [](const Record& record) { softmig::cuda::slice().release(record.device, record.bytes); });
}
