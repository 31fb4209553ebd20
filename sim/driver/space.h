// Device addresses of this process. They are numbers that no memory stands behind, in a part of
// the address space where the kernel maps nothing of its own accord.
#pragma once

#include <cstdint>
#include <map>

namespace softmig::sim {

class AddressSpace {
 public:
  AddressSpace(uint64_t begin, uint64_t end);

  // The lowest free range of that size and alignment, `wish` itself if it is free, or 0.
  uint64_t take(uint64_t bytes, uint64_t alignment, uint64_t wish = 0);
  void give(uint64_t base, uint64_t bytes);

 private:
  using Free = std::map<uint64_t, uint64_t>;  // begin -> end
  uint64_t carve(Free::iterator from, uint64_t base, uint64_t bytes);

  Free free_;
};

}  // namespace softmig::sim
