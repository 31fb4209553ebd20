// The meters of bench/virt_report.py that no other program here has: memory calls, copies, and what
// one tenant can do to another. Each prints one line of JSON; times are in the unit of its name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "share/gpu.h"

namespace softmig::bench {

inline constexpr uint64_t kPage = 2 * gpu_test::kMiB;  // what the driver takes memory by

using Times = std::vector<double>;

// Nanoseconds that `body` takes.
template <class Body>
double time_ns(Body body) {
  const int64_t start = now_ns();
  body();
  return static_cast<double>(now_ns() - start);
}

// Device memory that this process holds. Everything is freed in the end.
class Held {
 public:
  explicit Held(const gpu_test::Driver& driver) : driver_(driver) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() { drop(); }

  CUresult take(uint64_t bytes);
  // Pieces of `most` bytes, then halves of it, down to one page, until even that is refused.
  CUresult fill(uint64_t most);
  void drop();
  void drop_every_second();
  void drop_last();
  uint64_t bytes() const { return bytes_; }
  size_t pieces() const { return pieces_.size(); }
  CUdeviceptr last() const { return pieces_.back().address; }

 private:
  struct Piece {
    CUdeviceptr address;
    uint64_t bytes;
  };
  const gpu_test::Driver& driver_;
  std::vector<Piece> pieces_;
  uint64_t bytes_ = 0;
};

struct Info {
  uint64_t free = 0, total = 0;
};
Info memory_info(const gpu_test::Driver& driver);

// alloc_N, free_N: median of cuMemAlloc and cuMemFree of a page while N other allocations of 64 KiB
// live; direct_pair, pool_pair: both calls on a page, plain and from a warm pool; large: of 1 GiB.
void memory_calls(const Gpu& gpu, int rounds, const std::vector<int>& live);
// Blocks of a page from a warm pool, the oldest given back as new ones come: allocations per
// second.
void cache_blocks(const Gpu& gpu, double seconds);
// cuMemAlloc of a page on `threads` threads at once: every time, in ns.
void contend(const Gpu& gpu, int threads, int rounds, int64_t start_ns);
// What a request of `bytes` takes that is refused; takes all pages first if `bytes` is 0.
void deny(const Gpu& gpu, int rounds, uint64_t bytes);
// All memory in pieces of `piece` bytes, every second one freed: what one request can still get.
void fragment(const Gpu& gpu, uint64_t piece);
// Memory is filled, a request refused, one page freed: does everything go on?
void degrade(Gpu* gpu, uint64_t iterations);

// KIND: h2d, d2h (pinned), pageable (h2d), d2d. From `start_ns` on; GB/s.
void copy(const Gpu& gpu, const std::string& kind, uint64_t bytes, double seconds,
          int64_t start_ns);

// A kernel writes to an address that is not there; the context is lost.
void crash(Gpu* gpu);
// Memory with a pattern in it, its address on the line; given by descriptor to who connects to the
// socket `path`. Comes back when he is done.
void lend(const Gpu& gpu, uint64_t bytes, const std::string& path);
// Maps what is lent there and reads it: what that costs this slice.
void borrow(const Gpu& gpu, uint64_t bytes, const std::string& path);
// Reads at an address of somebody else.
void peek(const Gpu& gpu, CUdeviceptr address);

}  // namespace softmig::bench
