// What programs wrote into device memory, so that they can read it back. Host memory is taken only
// for 2 MiB chunks that hold something else than one repeated pattern.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "state/settings.h"

namespace softmig::sim {

class Storage {
 public:
  Storage() = default;
  // The content lives in a file that other processes map too; writes of one are seen by all.
  explicit Storage(std::byte* shared, uint64_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void write(uint64_t offset, const void* from, uint64_t bytes);
  void read(uint64_t offset, void* to, uint64_t bytes) const;

  // `value` repeats every `width` bytes (1, 2 or 4); offset and bytes are multiples of it.
  void fill(uint64_t offset, uint32_t value, unsigned int width, uint64_t bytes);

  // Whether anything was ever written; and a copy of all of it.
  bool is_empty() const { return chunks_.empty() && shared_ == nullptr; }
  void copy_to(Storage* other) const;

 private:
  struct Unmap {
    void operator()(std::byte* at) const;
  };
  struct Chunk {
    uint32_t pattern = 0;  // of every four bytes, while there is no data
    std::unique_ptr<std::byte, Unmap> data;
  };
  std::byte* data_of(uint64_t index);

  std::map<uint64_t, Chunk> chunks_;
  std::byte* shared_ = nullptr;
  uint64_t shared_bytes_ = 0;
};

}  // namespace softmig::sim
