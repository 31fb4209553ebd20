#include "driver/storage.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace softmig::sim {
namespace {

constexpr uint64_t kChunk = kPage;

uint32_t widen(uint32_t value, unsigned int width) {
  if (width == 1) return (value & 0xff) * 0x01010101u;
  if (width == 2) return (value & 0xffff) * 0x00010001u;
  return value;
}

// Puts the pattern, which starts at a multiple of four bytes, into [offset, offset + bytes).
void put_pattern(std::byte* at, uint64_t offset, uint32_t pattern, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; ++i) {
    at[i] = static_cast<std::byte>(pattern >> ((offset + i) % 4 * 8));
  }
}

std::byte* map_chunk() {
  void* at = mmap(nullptr, kChunk, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

}  // namespace

void Storage::Unmap::operator()(std::byte* at) const { munmap(at, kChunk); }

Storage::Storage(std::byte* shared, uint64_t bytes) : shared_(shared), shared_bytes_(bytes) {}

Storage::~Storage() {
  if (shared_ != nullptr) munmap(shared_, shared_bytes_);
}

std::byte* Storage::data_of(uint64_t index) {
  Chunk& chunk = chunks_[index];
  if (chunk.data == nullptr) {
    chunk.data.reset(map_chunk());
    if (chunk.data != nullptr && chunk.pattern != 0)
      put_pattern(chunk.data.get(), 0, chunk.pattern, kChunk);
  }
  return chunk.data.get();
}

void Storage::write(uint64_t offset, const void* from, uint64_t bytes) {
  if (shared_ != nullptr) {
    std::memcpy(shared_ + offset, from, bytes);
    return;
  }
  const auto* source = static_cast<const std::byte*>(from);
  while (bytes > 0) {
    const uint64_t inside = offset % kChunk, part = std::min(bytes, kChunk - inside);
    if (std::byte* data = data_of(offset / kChunk)) std::memcpy(data + inside, source, part);
    offset += part;
    source += part;
    bytes -= part;
  }
}

void Storage::read(uint64_t offset, void* to, uint64_t bytes) const {
  if (shared_ != nullptr) {
    std::memcpy(to, shared_ + offset, bytes);
    return;
  }
  auto* target = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const uint64_t inside = offset % kChunk, part = std::min(bytes, kChunk - inside);
    const auto chunk = chunks_.find(offset / kChunk);
    if (chunk == chunks_.end()) {
      std::memset(target, 0, part);
    } else if (chunk->second.data != nullptr) {
      std::memcpy(target, chunk->second.data.get() + inside, part);
    } else {
      put_pattern(target, inside, chunk->second.pattern, part);
    }
    offset += part;
    target += part;
    bytes -= part;
  }
}

void Storage::fill(uint64_t offset, uint32_t value, unsigned int width, uint64_t bytes) {
  const uint32_t pattern = widen(value, width);
  if (shared_ != nullptr) {
    put_pattern(shared_ + offset, offset, pattern, bytes);
    return;
  }
  while (bytes > 0) {
    const uint64_t inside = offset % kChunk, part = std::min(bytes, kChunk - inside);
    const uint64_t index = offset / kChunk;
    if (part == kChunk) {
      Chunk& chunk = chunks_[index];
      chunk.data.reset();
      chunk.pattern = pattern;
    } else if (std::byte* data = data_of(index)) {
      if (width == 1)
        std::memset(data + inside, static_cast<int>(value & 0xff), part);
      else
        put_pattern(data + inside, inside, pattern, part);
    }
    offset += part;
    bytes -= part;
  }
}

void Storage::copy_to(Storage* other) const {
  for (const auto& [index, chunk] : chunks_) {
    if (chunk.data != nullptr)
      other->write(index * kChunk, chunk.data.get(), kChunk);
    else
      other->fill(index * kChunk, chunk.pattern, 4, kChunk);
  }
}

}  // namespace softmig::sim
