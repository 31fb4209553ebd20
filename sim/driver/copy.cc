// Copies and sets. They happen at once, in the order of the calls; their stream is told of them
// only for its captures.
#include <algorithm>
#include <array>
#include <cstring>

#include "driver/graph.h"
#include "driver/objects.h"

namespace softmig::sim {
namespace {

// Where the bytes at an address are: in a Storage, or in host memory.
struct Place {
  Storage* storage = nullptr;
  uint64_t offset = 0;
  std::byte* host = nullptr;
};

bool is_host_memory(const Range& range) {
  return range.kind == RangeKind::kManaged || range.kind == RangeKind::kHost ||
         range.kind == RangeKind::kRegistered;
}

// `device`: must be memory that the driver knows. False where [address, + bytes) is not one
// allocation (or mapping after mapping).
bool locate(uint64_t address, uint64_t bytes, bool device, Place* place) {
  Range* range = find_range(address);
  if (range == nullptr) {
    place->host = reinterpret_cast<std::byte*>(address);
    return !device && address != 0;
  }
  Extent extent;
  if (range->kind == RangeKind::kReservation) {
    uint64_t contiguous = 0;
    return find_mapping(range, address, &extent, &place->storage, &place->offset, &contiguous) &&
           bytes <= contiguous;
  }
  if (!find_extent(address, &extent) || bytes > extent.base + extent.bytes - address) return false;
  if (is_host_memory(*range)) {
    place->host = reinterpret_cast<std::byte*>(address);
    return true;
  }
  place->storage = range->storage.get();
  place->offset = range->storage_offset + (address - range->base);
  return place->storage != nullptr;
}

void move(const Place& to, const Place& from, uint64_t bytes) {
  if (to.host != nullptr && from.host != nullptr) {
    std::memmove(to.host, from.host, bytes);
  } else if (to.host != nullptr) {
    from.storage->read(from.offset, to.host, bytes);
  } else if (from.host != nullptr) {
    to.storage->write(to.offset, from.host, bytes);
  } else {
    std::array<std::byte, 4096> buffer;
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t part = std::min<uint64_t>(buffer.size(), bytes - done);
      from.storage->read(from.offset + done, buffer.data(), part);
      to.storage->write(to.offset + done, buffer.data(), part);
      done += part;
    }
  }
}

// Which ends of a copy must be known to the driver.
struct Ends {
  bool to_device;
  bool from_device;
};

CUresult check(uint64_t to, uint64_t from, uint64_t bytes, Ends ends) {
  Place place;
  return locate(to, bytes, ends.to_device, &place) && locate(from, bytes, ends.from_device, &place)
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

void touch(uint64_t address, uint64_t bytes) {
  Range* range = find_range(address);
  if (range != nullptr && range->kind == RangeKind::kManaged) touch_managed(range, address, bytes);
}

CUresult copy(Call& call, CUstream handle, bool per_thread, uint64_t to, uint64_t from,
              uint64_t bytes, Ends ends, bool synchronous) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (synchronous && call.forbidden_in_capture()) return call.code();
  if (bytes == 0) return CUDA_SUCCESS;
  if ((code = check(to, from, bytes, ends)) != CUDA_SUCCESS) return code;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      Node* node = add_node(stream->capture->graph, CU_GRAPH_NODE_TYPE_MEMCPY);
      node->copy = {to, from, bytes};
      append_captured(stream, node);
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  code = copy_bytes(to, from, bytes);
  if (synchronous) wait_for(call, work_before(*stream));
  return code;
}

CUresult set(Call& call, CUstream handle, bool per_thread, uint64_t to, uint32_t value,
             unsigned int width, uint64_t count, bool synchronous) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (synchronous && call.forbidden_in_capture()) return call.code();
  if (count == 0) return CUDA_SUCCESS;
  Place place;
  if (to % width != 0 || count > (uint64_t{1} << 48) || !locate(to, count * width, true, &place)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      Node* node = add_node(stream->capture->graph, CU_GRAPH_NODE_TYPE_MEMSET);
      node->set = {to, value, width, count};
      append_captured(stream, node);
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  return fill_bytes(to, value, width, count);
}

constexpr Ends kAny{false, false};
constexpr Ends kToDevice{true, false};
constexpr Ends kFromDevice{false, true};
constexpr Ends kBoth{true, true};

uint64_t number(const void* address) { return reinterpret_cast<uint64_t>(address); }

}  // namespace

CUresult copy_bytes(uint64_t to, uint64_t from, uint64_t bytes) {
  Place target, source;
  if (!locate(to, bytes, false, &target) || !locate(from, bytes, false, &source))
    return CUDA_ERROR_INVALID_VALUE;
  move(target, source, bytes);
  touch(to, bytes);
  touch(from, bytes);
  return CUDA_SUCCESS;
}

CUresult fill_bytes(uint64_t to, uint32_t value, unsigned int width, uint64_t count) {
  Place place;
  const uint64_t bytes = count * width;
  if (!locate(to, bytes, true, &place)) return CUDA_ERROR_INVALID_VALUE;
  touch(to, bytes);
  if (place.storage != nullptr) {
    place.storage->fill(place.offset, value, width, bytes);
    return CUDA_SUCCESS;
  }
  for (uint64_t i = 0; i < count; ++i) std::memcpy(place.host + i * width, &value, width);
  return CUDA_SUCCESS;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, nullptr, false, to, from, bytes, kAny, true);
}

CUresult cuMemcpy_ptds(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, nullptr, true, to, from, bytes, kAny, true);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, stream, false, to, from, bytes, kAny, false);
}

CUresult cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, stream, true, to, from, bytes, kAny, false);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, nullptr, false, to, number(from), bytes, kToDevice, true);
}

CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void* from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, nullptr, true, to, number(from), bytes, kToDevice, true);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes,
                              CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, stream, false, to, number(from), bytes, kToDevice, false);
}

CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void* from, std::size_t bytes,
                                   CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, stream, true, to, number(from), bytes, kToDevice, false);
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, nullptr, false, number(to), from, bytes, kFromDevice, true);
}

CUresult cuMemcpyDtoH_v2_ptds(void* to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, nullptr, true, number(to), from, bytes, kFromDevice, true);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, stream, false, number(to), from, bytes, kFromDevice, false);
}

CUresult cuMemcpyDtoHAsync_v2_ptsz(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : copy(call, stream, true, number(to), from, bytes, kFromDevice, false);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, nullptr, false, to, from, bytes, kBoth, false);
}

CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, nullptr, true, to, from, bytes, kBoth, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                              CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, stream, false, to, from, bytes, kBoth, false);
}

CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                                   CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : copy(call, stream, true, to, from, bytes, kBoth, false);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t count) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, nullptr, false, to, value, 1, count, true);
}

CUresult cuMemsetD8_v2_ptds(CUdeviceptr to, unsigned char value, std::size_t count) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, nullptr, true, to, value, 1, count, true);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t count, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, stream, false, to, value, 1, count, false);
}

CUresult cuMemsetD8Async_ptsz(CUdeviceptr to, unsigned char value, std::size_t count,
                              CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, stream, true, to, value, 1, count, false);
}

CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned int value, std::size_t count) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, nullptr, false, to, value, 4, count, true);
}

CUresult cuMemsetD32_v2_ptds(CUdeviceptr to, unsigned int value, std::size_t count) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, nullptr, true, to, value, 4, count, true);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, std::size_t count, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, stream, false, to, value, 4, count, false);
}

CUresult cuMemsetD32Async_ptsz(CUdeviceptr to, unsigned int value, std::size_t count,
                               CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : set(call, stream, true, to, value, 4, count, false);
}
