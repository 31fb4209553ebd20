// CUDA arrays and mipmapped arrays. Their size is the driver's secret until they exist, but not
// that of a twin whose memory is to be mapped later: it is made, asked and destroyed first. What it
// says is rounded up to 64 KiB, while small arrays lie 512 bytes apart: the size of those is found
// by a twin of so many layers that the rounding is lost.
#include <bit>

#include "cuda/state.h"

SM_DRIVER(cuArrayGetMemoryRequirements);
SM_DRIVER(cuMipmappedArrayGetMemoryRequirements);
SM_DRIVER(cuCtxGetDevice);

namespace softmig::cuda {
namespace {

constinit policy::Packing g_packing[job::kDeviceIndices];
constinit sys::Mutex g_lock[job::kDeviceIndices];

// Arrays without memory of their own: what is mapped into them is charged where it is made.
bool has_own_memory(const CUDA_ARRAY3D_DESCRIPTOR& desc) {
  return (desc.Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)) == 0;
}

uint64_t element_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    default:
      return 4;
  }
}

// Where the driver would not make a twin: the texels with a third on top, for padding and levels.
uint64_t guess(const CUDA_ARRAY3D_DESCRIPTOR& desc, bool mipmapped) {
  uint64_t bytes = element_bytes(desc.Format) * (desc.NumChannels != 0 ? desc.NumChannels : 1);
  for (uint64_t extent : {uint64_t{desc.Width}, uint64_t{desc.Height}, uint64_t{desc.Depth}}) {
    if (extent != 0 && __builtin_mul_overflow(bytes, extent, &bytes)) return UINT64_MAX / 4;
  }
  return bytes + bytes / (mipmapped ? 2 : 3);
}

constexpr uint64_t kLayers = 64 * base::kKiB / policy::kPackUnit;

// What one array takes by the size of `kLayers` layers of it; UINT64_MAX where the driver does not
// make those. Depth is laid out in powers of two.
template <typename Twin>
uint64_t by_layers(CUDA_ARRAY3D_DESCRIPTOR desc, Twin size_of_twin) {
  constexpr unsigned int kFlat = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP;
  const uint64_t depth = desc.Depth != 0 ? desc.Depth : 1;
  const uint64_t count = (desc.Flags & kFlat) != 0 ? depth : std::bit_ceil(depth);
  desc.Flags = (desc.Flags & ~kFlat) | CUDA_ARRAY3D_LAYERED;
  desc.Depth = kLayers;
  const uint64_t bytes = size_of_twin(desc);
  return bytes == 0 ? UINT64_MAX : bytes / kLayers * count;
}

// The last answers of the driver, for programs that make many arrays of one kind. 0: no answer.
class Sizes {
 public:
  template <typename Ask>
  uint64_t find(const CUDA_ARRAY3D_DESCRIPTOR& desc, unsigned int levels, int device, Ask ask) {
    const Key key = {desc.Width,       desc.Height, desc.Depth, static_cast<uint32_t>(desc.Format),
                     desc.NumChannels, desc.Flags,  levels,     device};
    Entry& entry = entries_[key.place()];
    lock_.lock();
    const uint64_t known = entry.key == key ? entry.bytes : 0;
    lock_.unlock();
    if (known != 0) return known;
    const uint64_t bytes = ask();
    if (bytes == 0) return 0;
    lock_.lock();
    entry = {key, bytes};
    lock_.unlock();
    return bytes;
  }

 private:
  struct Key {
    uint64_t width, height, depth;
    uint32_t format, channels, flags, levels;
    int device;
    bool operator==(const Key&) const = default;
    size_t place() const {
      const uint64_t mixed = width * 31 + height * 37 + depth * 41 + levels * 43 + channels;
      return mixed * 0x9e3779b97f4a7c15 >> 58;
    }
  };
  struct Entry {
    Key key;
    uint64_t bytes;
  };
  sys::Mutex lock_;
  Entry entries_[64] = {};
};

constinit Sizes g_sizes;

void give_back(const Record& record) {
  if (!policy::Packing::packs(record.bytes)) {
    slice().release(record.device, in_pages(record.bytes));
    return;
  }
  g_lock[record.device].lock();
  slice().release(record.device, g_packing[record.device].remove(record.bytes));
  g_lock[record.device].unlock();
}

// 0: the driver made no twin.
template <typename Twin>
uint64_t size_of(const CUDA_ARRAY3D_DESCRIPTOR& desc, Twin size_of_twin) {
  CUDA_ARRAY3D_DESCRIPTOR deferred = desc;
  deferred.Flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
  const uint64_t bytes = size_of_twin(deferred);
  if (bytes == 0 || !policy::Packing::packs(bytes)) return bytes;
  const uint64_t finer = by_layers(deferred, size_of_twin);
  return finer < bytes ? finer : bytes;
}

// Levels: 0 for an array that is not mipmapped.
template <typename Handle, typename Twin, typename Call>
[[gnu::noinline]] CUresult create(Handle* out, const CUDA_ARRAY3D_DESCRIPTOR& desc,
                                  unsigned int levels, Twin size_of_twin, Call call) {
  Place place;
  if (out == nullptr || !has_own_memory(desc) || !current_place(&place)) return call();
  uint64_t bytes =
      g_sizes.find(desc, levels, place.device, [&] { return size_of(desc, size_of_twin); });
  if (bytes == 0) bytes = guess(desc, levels != 0);
  const Record record{bytes, 0, place.context, static_cast<int16_t>(place.device)};
  if (policy::Packing::packs(bytes)) {
    PackedCharge charge(&g_packing[place.device], &g_lock[place.device], place.device, bytes);
    if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult result = call();
    if (result != CUDA_SUCCESS) return result;
    charge.keep();
    keep_record(tables.arrays, reinterpret_cast<uint64_t>(*out), record, give_back);
    return result;
  }
  Charge charge(place.device, in_pages(bytes));
  if (!charge) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call();
  if (result != CUDA_SUCCESS) return result;
  charge.keep(in_pages(bytes));
  keep_record(tables.arrays, reinterpret_cast<uint64_t>(*out), record, give_back);
  return result;
}

template <typename Call>
[[gnu::noinline]] CUresult destroy(uint64_t handle, Call call) {
  return end_record(tables.arrays, handle, call, give_back);
}

template <typename Desc>
CUDA_ARRAY3D_DESCRIPTOR flat(const Desc& desc) {
  return {desc.Width, desc.Height, 0, desc.Format, desc.NumChannels, 0};
}
template <typename Desc>
CUDA_ARRAY3D_DESCRIPTOR solid(const Desc& desc) {
  return {desc.Width, desc.Height, desc.Depth, desc.Format, desc.NumChannels, desc.Flags};
}

uint64_t size_of_array(CUarray array) {
  CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {};
  CUdevice device;
  if (next_cuCtxGetDevice(&device) != CUDA_SUCCESS) return 0;
  return next_cuArrayGetMemoryRequirements(&needs, array, device) == CUDA_SUCCESS ? needs.size : 0;
}

uint64_t size_of_mipmapped(CUmipmappedArray array) {
  CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {};
  CUdevice device;
  if (next_cuCtxGetDevice(&device) != CUDA_SUCCESS) return 0;
  return next_cuMipmappedArrayGetMemoryRequirements(&needs, array, device) == CUDA_SUCCESS
             ? needs.size
             : 0;
}

}  // namespace

void drop_arrays(uint32_t context) {
  uint64_t handle;
  Record record;
  while (tables.arrays.take_one_of(context, &handle, &record)) give_back(record);
}

}  // namespace softmig::cuda

using softmig::cuda::active;

SM_HOOK(cuArrayDestroy, 2000) CUresult cuArrayDestroy(CUarray array) {
  if (!active()) return next_cuArrayDestroy(array);
  return softmig::cuda::destroy(reinterpret_cast<uint64_t>(array),
                                [=] { return next_cuArrayDestroy(array); });
}

SM_HOOK(cuMipmappedArrayDestroy, 5000)
CUresult cuMipmappedArrayDestroy(CUmipmappedArray array) {
  if (!active()) return next_cuMipmappedArrayDestroy(array);
  return softmig::cuda::destroy(reinterpret_cast<uint64_t>(array),
                                [=] { return next_cuMipmappedArrayDestroy(array); });
}

SM_HOOK(cuArray3DCreate_v2, 3020)
CUresult cuArray3DCreate_v2(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR* desc);

static uint64_t twin_of_array(const CUDA_ARRAY3D_DESCRIPTOR& desc) {
  CUarray twin;
  if (next_cuArray3DCreate_v2(&twin, &desc) != CUDA_SUCCESS) return 0;
  const uint64_t bytes = softmig::cuda::size_of_array(twin);
  next_cuArrayDestroy(twin);
  return bytes;
}

template <typename Desc, typename Call>
[[gnu::noinline]] static CUresult create_array(CUarray* out, const Desc* desc, Call call) {
  if (!active() || desc == nullptr) return call();
  if constexpr (requires { desc->Depth; }) {
    return softmig::cuda::create(out, softmig::cuda::solid(*desc), 0, twin_of_array, call);
  } else {
    return softmig::cuda::create(out, softmig::cuda::flat(*desc), 0, twin_of_array, call);
  }
}

CUresult cuArray3DCreate_v2(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR* desc) {
  return create_array(out, desc, [=] { return next_cuArray3DCreate_v2(out, desc); });
}

SM_HOOK(cuArrayCreate, 2000)
CUresult cuArrayCreate(CUarray* out, const CUDA_ARRAY_DESCRIPTOR_v1* desc) {
  return create_array(out, desc, [=] { return next_cuArrayCreate(out, desc); });
}

SM_HOOK(cuArrayCreate_v2, 3020)
CUresult cuArrayCreate_v2(CUarray* out, const CUDA_ARRAY_DESCRIPTOR* desc) {
  return create_array(out, desc, [=] { return next_cuArrayCreate_v2(out, desc); });
}

SM_HOOK(cuArray3DCreate, 2000)
CUresult cuArray3DCreate(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR_v1* desc) {
  return create_array(out, desc, [=] { return next_cuArray3DCreate(out, desc); });
}

SM_HOOK(cuMipmappedArrayCreate, 5000)
CUresult cuMipmappedArrayCreate(CUmipmappedArray* out, const CUDA_ARRAY3D_DESCRIPTOR* desc,
                                unsigned int levels) {
  const auto call = [=] { return next_cuMipmappedArrayCreate(out, desc, levels); };
  if (!active() || desc == nullptr) return call();
  const auto twin = [&](const CUDA_ARRAY3D_DESCRIPTOR& deferred) -> uint64_t {
    CUmipmappedArray array;
    if (next_cuMipmappedArrayCreate(&array, &deferred, levels) != CUDA_SUCCESS) return 0;
    const uint64_t bytes = softmig::cuda::size_of_mipmapped(array);
    next_cuMipmappedArrayDestroy(array);
    return bytes;
  };
  return softmig::cuda::create(out, *desc, levels, twin, call);
}
