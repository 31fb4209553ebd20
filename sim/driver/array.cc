// CUDA arrays: what they take of the device. Their content is not kept.
//
// Sizes are those of the block-linear layout, which gives what the driver says of deferred arrays:
// rows of 64 bytes, in blocks 8 rows high; up to 16 such blocks stand on (2D) or behind (3D) each
// other. Each level of a mipmapped array likewise. The driver says it rounded up to 64 KiB, and
// packs small arrays without that.
#include <algorithm>
#include <bit>

#include "driver/objects.h"
#include "driver/vmm.h"

namespace softmig::sim {

struct Array {
  static constexpr Mark kMark = kArray;
  Mark mark = kArray;
  Context* context = nullptr;
  CUDA_ARRAY3D_DESCRIPTOR desc{};
  unsigned int levels = 0;  // 0: not mipmapped
  uint64_t bytes = 0;
  uint64_t address = 0;          // of its memory; 0: mapped later
  Array* parent = nullptr;       // a level of that mipmapped array
  std::vector<Array*> made;      // its levels, once they were asked for
  std::vector<Physical*> bound;  // cuMemMapArrayAsync
};

namespace {

constexpr uint64_t kToldStep = 64 * kKiB;
constexpr uint64_t kPlacedStep = 512;
constexpr uint64_t kRowStep = 64;
constexpr uint64_t kRows = 8;
constexpr uint64_t kMostBlocks = 16;
constexpr unsigned int kLaterMapped = CUDA_ARRAY3D_DEFERRED_MAPPING | CUDA_ARRAY3D_SPARSE;
constexpr unsigned int kKnownFlags = 0xff;

uint64_t format_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 0;
  }
}

bool is_layered(const CUDA_ARRAY3D_DESCRIPTOR& desc) {
  return (desc.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
}

uint64_t level_bytes(uint64_t width, uint64_t height, uint64_t depth, uint64_t element) {
  const uint64_t row = round_up(width * element, kRowStep);
  const uint64_t deep = std::min(kMostBlocks, std::bit_ceil(depth));
  const uint64_t high = std::min(kMostBlocks / deep, std::bit_ceil((height + kRows - 1) / kRows));
  return row * round_up(height, kRows * high) * round_up(depth, deep);
}

uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& desc, unsigned int levels) {
  const uint64_t element = format_bytes(desc.Format) * desc.NumChannels;
  const uint64_t layers = is_layered(desc) ? std::max<uint64_t>(1, desc.Depth) : 1;
  uint64_t bytes = 0;
  for (unsigned int level = 0; level < std::max(1u, levels); ++level) {
    const uint64_t width = std::max<uint64_t>(1, desc.Width >> level);
    const uint64_t height = std::max<uint64_t>(1, desc.Height >> level);
    const uint64_t depth = is_layered(desc) ? 1 : std::max<uint64_t>(1, desc.Depth >> level);
    bytes += level_bytes(width, height, depth, element);
  }
  return bytes * layers;
}

bool is_good(const CUDA_ARRAY3D_DESCRIPTOR& desc) {
  constexpr uint64_t kMost1d = 131072, kMost2d = 131072, kMost3d = 16384;
  const bool channels = desc.NumChannels == 1 || desc.NumChannels == 2 || desc.NumChannels == 4;
  if (format_bytes(desc.Format) == 0 || !channels || desc.Width == 0 ||
      (desc.Flags & ~kKnownFlags) != 0)
    return false;
  if ((desc.Flags & CUDA_ARRAY3D_CUBEMAP) != 0) {
    const bool faces = (desc.Flags & CUDA_ARRAY3D_LAYERED) != 0
                           ? desc.Depth % 6 == 0 && desc.Depth != 0
                           : desc.Depth == 6;
    return desc.Width == desc.Height && faces && desc.Width <= 32768;
  }
  if ((desc.Flags & CUDA_ARRAY3D_LAYERED) != 0) {
    return desc.Depth != 0 && desc.Depth <= 2048 && desc.Width <= 32768 && desc.Height <= 32768;
  }
  if (desc.Depth != 0) {
    return desc.Height != 0 && std::max({desc.Width, desc.Height, desc.Depth}) <= kMost3d;
  }
  return desc.Width <= (desc.Height == 0 ? kMost1d : kMost2d) && desc.Height <= 65536;
}

bool take_memory(Array* array) {
  if ((array->desc.Flags & kLaterMapped) != 0) return true;
  array->address = take_linear(array->context, &array->context->array, array->bytes, kPlacedStep);
  return array->address != 0;
}

CUresult create(Call& call, const CUDA_ARRAY3D_DESCRIPTOR& desc, unsigned int levels, Array** out) {
  if (!is_good(desc)) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  auto array = std::make_unique<Array>();
  array->context = call.context();
  array->desc = desc;
  array->levels = levels;
  array->bytes = array_bytes(desc, levels);
  if (!take_memory(array.get())) return CUDA_ERROR_OUT_OF_MEMORY;
  call.context()->arrays.insert(array.get());
  *out = array.release();
  return CUDA_SUCCESS;
}

void unbind(Array* array) {
  for (Physical* physical : array->bound) {
    physical->mappings--;
    drop_if_unused(physical);
  }
  array->bound.clear();
}

void retire(Array* array) {
  unbind(array);
  for (Array* level : array->made) {
    if (level != nullptr) level->mark = kDead;
  }
  array->mark = kDead;
}

CUresult destroy(Call& call, Array* array) {
  if (call.forbidden_in_capture()) return call.code();
  if (!array->context->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  wait_for(call, context_work(*array->context));
  if (array->mark == kDead) return CUDA_ERROR_INVALID_HANDLE;
  if (array->address != 0) free_linear(array->address);
  array->context->arrays.erase(array);
  retire(array);
  return CUDA_SUCCESS;
}

CUDA_ARRAY3D_DESCRIPTOR widened(const CUDA_ARRAY_DESCRIPTOR& desc) {
  return {desc.Width, desc.Height, 0, desc.Format, desc.NumChannels, 0};
}

CUDA_ARRAY3D_DESCRIPTOR widened(const CUDA_ARRAY_DESCRIPTOR_v1& desc) {
  return {desc.Width, desc.Height, 0, desc.Format, desc.NumChannels, 0};
}

CUDA_ARRAY3D_DESCRIPTOR widened(const CUDA_ARRAY3D_DESCRIPTOR_v1& desc) {
  return {desc.Width, desc.Height, desc.Depth, desc.Format, desc.NumChannels, desc.Flags};
}

// Plain arrays share the handle type with mipmapped ones; what is which says `levels`.
Array* plain(CUarray handle) {
  auto* array = live<Array>(handle);
  return array != nullptr && array->levels == 0 ? array : nullptr;
}

Array* mipmapped(CUmipmappedArray handle) {
  auto* array = live<Array>(handle);
  return array != nullptr && array->levels != 0 ? array : nullptr;
}

CUresult create_plain(Call& call, CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR& desc) {
  Array* array = nullptr;
  if (const CUresult code = create(call, desc, 0, &array)) return code;
  *out = reinterpret_cast<CUarray>(array);
  return CUDA_SUCCESS;
}

CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out, const Array* array, CUdevice ordinal) {
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (driver().device(ordinal) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (out == nullptr || (array->desc.Flags & kLaterMapped) == 0) return CUDA_ERROR_INVALID_VALUE;
  *out = CUDA_ARRAY_MEMORY_REQUIREMENTS{};
  out->size = round_up(array->bytes, kToldStep);
  out->alignment = kToldStep;
  return CUDA_SUCCESS;
}

Array* make_level(Array* whole, unsigned int level) {
  auto* array = new Array();
  array->context = whole->context;
  array->parent = whole;
  array->desc = whole->desc;
  array->desc.Width = std::max<size_t>(1, whole->desc.Width >> level);
  if (whole->desc.Height != 0)
    array->desc.Height = std::max<size_t>(1, whole->desc.Height >> level);
  if (whole->desc.Depth != 0 && !is_layered(whole->desc)) {
    array->desc.Depth = std::max<size_t>(1, whole->desc.Depth >> level);
  }
  return array;
}

CUresult bind(const CUarrayMapInfo& info) {
  Array* array = info.resourceType == CU_RESOURCE_TYPE_ARRAY ? plain(info.resource.array)
                                                             : mipmapped(info.resource.mipmap);
  if (array == nullptr || (array->desc.Flags & kLaterMapped) == 0) return CUDA_ERROR_INVALID_VALUE;
  if (info.memOperationType == CU_MEM_OPERATION_TYPE_UNMAP) {
    unbind(array);
    return CUDA_SUCCESS;
  }
  Physical* physical = find_physical(info.memHandle.memHandle);
  if (physical == nullptr) return CUDA_ERROR_INVALID_VALUE;
  physical->mappings++;
  array->bound.push_back(physical);
  return CUDA_SUCCESS;
}

CUresult bind_all(Call& call, const CUarrayMapInfo* list, unsigned int count, CUstream handle,
                  bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  if (find_stream(handle, per_thread, call.context(), &code) == nullptr) return code;
  if (list == nullptr && count != 0) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned int i = 0; i < count; ++i) {
    if ((code = bind(list[i])) != CUDA_SUCCESS) return code;
  }
  return CUDA_SUCCESS;
}

}  // namespace

void retire_arrays(Context* context) {
  for (Array* array : context->arrays) retire(array);
  context->arrays.clear();
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuArrayCreate_v2(CUarray* out, const CUDA_ARRAY_DESCRIPTOR* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : create_plain(call, out, widened(*desc));
}

CUresult cuArrayCreate(CUarray* out, const CUDA_ARRAY_DESCRIPTOR_v1* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : create_plain(call, out, widened(*desc));
}

CUresult cuArray3DCreate_v2(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : create_plain(call, out, *desc);
}

CUresult cuArray3DCreate(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR_v1* desc) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return out == nullptr || desc == nullptr ? CUDA_ERROR_INVALID_VALUE
                                           : create_plain(call, out, widened(*desc));
}

CUresult cuArrayDestroy(CUarray handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Array* array = plain(handle);
  return array == nullptr || array->parent != nullptr ? CUDA_ERROR_INVALID_HANDLE
                                                      : destroy(call, array);
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* desc, CUarray handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const Array* array = plain(handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (desc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *desc = {array->desc.Width, array->desc.Height, array->desc.Format, array->desc.NumChannels};
  return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor(CUDA_ARRAY_DESCRIPTOR_v1* desc, CUarray handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const Array* array = plain(handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (desc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *desc = {static_cast<unsigned int>(array->desc.Width),
           static_cast<unsigned int>(array->desc.Height), array->desc.Format,
           array->desc.NumChannels};
  return CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* desc, CUarray handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const Array* array = plain(handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (desc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *desc = array->desc;
  return CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor(CUDA_ARRAY3D_DESCRIPTOR_v1* desc, CUarray handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  const Array* array = plain(handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (desc == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY3D_DESCRIPTOR& d = array->desc;
  *desc = {static_cast<unsigned int>(d.Width),
           static_cast<unsigned int>(d.Height),
           static_cast<unsigned int>(d.Depth),
           d.Format,
           d.NumChannels,
           d.Flags};
  return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out, CUarray array,
                                      CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : requirements(out, plain(array), device);
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray* out, const CUDA_ARRAY3D_DESCRIPTOR* desc,
                                unsigned int levels) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr || desc == nullptr || levels == 0) return CUDA_ERROR_INVALID_VALUE;
  const bool layered = is_layered(*desc);
  const size_t longest =
      std::max({desc->Width, desc->Height, layered ? size_t{0} : desc->Depth, size_t{1}});
  levels = std::min(levels, static_cast<unsigned int>(std::bit_width(longest)));
  Array* array = nullptr;
  if (const CUresult code = create(call, *desc, levels, &array)) return code;
  array->made.resize(levels);
  *out = reinterpret_cast<CUmipmappedArray>(array);
  return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  Array* array = mipmapped(handle);
  return array == nullptr ? CUDA_ERROR_INVALID_HANDLE : destroy(call, array);
}

CUresult cuMipmappedArrayGetLevel(CUarray* out, CUmipmappedArray handle, unsigned int level) {
  Call call(__func__);
  if (call.failed()) return call.code();
  Array* array = mipmapped(handle);
  if (array == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr || level >= array->levels) return CUDA_ERROR_INVALID_VALUE;
  if (array->made[level] == nullptr) array->made[level] = make_level(array, level);
  *out = reinterpret_cast<CUarray>(array->made[level]);
  return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out,
                                               CUmipmappedArray array, CUdevice device) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : requirements(out, mipmapped(array), device);
}

CUresult cuMemMapArrayAsync(CUarrayMapInfo* list, unsigned int count, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : bind_all(call, list, count, stream, false);
}

CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo* list, unsigned int count, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : bind_all(call, list, count, stream, true);
}
