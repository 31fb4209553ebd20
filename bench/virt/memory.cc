#include <algorithm>
#include <cmath>
#include <deque>
#include <thread>

#include "share/series.h"
#include "virt/meters.h"

namespace softmig::bench {

using gpu_test::Driver;
using gpu_test::kGiB;
using gpu_test::kKiB;
using gpu_test::Line;

namespace {

double median(Times* times) { return percentile(times, 0.5); }

// The rounds after the first tenth of them.
template <class Body>
double median_of(int rounds, Body body) {
  Times times;
  for (int i = 0; i < rounds; ++i) {
    const double ns = body();
    if (i >= rounds / 10) times.push_back(ns);
  }
  return median(&times);
}

struct Pair {
  double alloc, free;
};

Pair time_pair(const Driver& d, int rounds, uint64_t bytes) {
  Times allocs, frees;
  CUdeviceptr address = 0;
  for (int i = 0; i < rounds; ++i) {
    const double alloc = time_ns([&] { must(d.cuMemAlloc_v2(&address, bytes), "cuMemAlloc"); });
    const double free = time_ns([&] { must(d.cuMemFree_v2(address), "cuMemFree"); });
    if (i < rounds / 10) continue;
    allocs.push_back(alloc);
    frees.push_back(free);
  }
  return {median(&allocs), median(&frees)};
}

// The device's pool keeps what it has while this exists.
class WarmPool {
 public:
  explicit WarmPool(const Gpu& gpu) : driver_(gpu.driver()) {
    must(driver_.cuDeviceGetDefaultMemPool(&pool_, gpu.device()), "cuDeviceGetDefaultMemPool");
    keep(~cuuint64_t{0});
    must(driver_.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  }
  WarmPool(const WarmPool&) = delete;
  WarmPool& operator=(const WarmPool&) = delete;
  ~WarmPool() {
    keep(0);
    driver_.cuStreamSynchronize(stream_);
    driver_.cuMemPoolTrimTo(pool_, 0);
    driver_.cuStreamDestroy_v2(stream_);
  }
  CUdeviceptr take() {
    CUdeviceptr address = 0;
    must(driver_.cuMemAllocAsync(&address, kPage, stream_), "cuMemAllocAsync");
    return address;
  }
  void give(CUdeviceptr address) {
    must(driver_.cuMemFreeAsync(address, stream_), "cuMemFreeAsync");
  }

 private:
  void keep(cuuint64_t bytes) {
    must(driver_.cuMemPoolSetAttribute(pool_, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &bytes),
         "cuMemPoolSetAttribute");
  }
  const Driver& driver_;
  CUmemoryPool pool_ = nullptr;
  CUstream stream_ = nullptr;
};

// The largest single request that is granted, to a page.
uint64_t largest(const Driver& d, uint64_t most) {
  uint64_t granted = 0, refused = most / kPage + 1;
  while (refused - granted > 1) {
    const uint64_t pages = (granted + refused) / 2;
    CUdeviceptr address = 0;
    if (d.cuMemAlloc_v2(&address, pages * kPage) == CUDA_SUCCESS) {
      d.cuMemFree_v2(address);
      granted = pages;
    } else {
      refused = pages;
    }
  }
  return granted * kPage;
}

}  // namespace

CUresult Held::take(uint64_t bytes) {
  CUdeviceptr address = 0;
  const CUresult code = driver_.cuMemAlloc_v2(&address, bytes);
  if (code != CUDA_SUCCESS) return code;
  pieces_.push_back({address, bytes});
  bytes_ += bytes;
  return code;
}

CUresult Held::fill(uint64_t most) {
  CUresult code = CUDA_SUCCESS;
  for (uint64_t bytes = most; bytes >= kPage; bytes /= 2) {
    do {
      code = take(bytes);
    } while (code == CUDA_SUCCESS);
  }
  return code;
}

void Held::drop_last() {
  driver_.cuMemFree_v2(pieces_.back().address);
  bytes_ -= pieces_.back().bytes;
  pieces_.pop_back();
}

void Held::drop() {
  while (!pieces_.empty()) drop_last();
}

void Held::drop_every_second() {
  std::vector<Piece> kept;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (i % 2 == 0) {
      kept.push_back(pieces_[i]);
      continue;
    }
    driver_.cuMemFree_v2(pieces_[i].address);
    bytes_ -= pieces_[i].bytes;
  }
  pieces_ = std::move(kept);
}

Info memory_info(const Driver& d) {
  size_t free = 0, total = 0;
  must(d.cuMemGetInfo_v2(&free, &total), "cuMemGetInfo");
  return {free, total};
}

void memory_calls(const Gpu& gpu, int rounds, const std::vector<int>& live) {
  const Driver& d = gpu.driver();
  Line line("memory");
  Held others(d);
  for (int count : live) {
    while (others.pieces() < static_cast<size_t>(count)) must(others.take(64 * kKiB), "cuMemAlloc");
    const Pair pair = time_pair(d, rounds, kPage);
    const std::string name = std::to_string(count);
    line.add(std::string("alloc_").append(name), pair.alloc);
    line.add(std::string("free_").append(name), pair.free);
  }
  others.drop();
  const Pair large = time_pair(d, 10, kGiB);
  line.add("large", large.alloc + large.free);
  CUdeviceptr address = 0;
  line.add("direct_pair", median_of(rounds, [&] {
             return time_ns([&] {
               d.cuMemAlloc_v2(&address, kPage);
               d.cuMemFree_v2(address);
             });
           }));
  WarmPool pool(gpu);
  line.add("pool_pair",
           median_of(rounds, [&] { return time_ns([&] { pool.give(pool.take()); }); }));
  line.add("ok", true).print();
}

void cache_blocks(const Gpu& gpu, double seconds) {
  constexpr size_t kBlocks = 64, kStep = 16;
  WarmPool pool(gpu);
  std::deque<CUdeviceptr> blocks;
  const auto step = [&] {
    for (size_t i = 0; i < kStep; ++i) blocks.push_back(pool.take());
    while (blocks.size() > kBlocks) {
      pool.give(blocks.front());
      blocks.pop_front();
    }
  };
  while (blocks.size() < kBlocks) step();
  step();
  uint64_t count = 0;
  const int64_t start = now_ns(), end = start + static_cast<int64_t>(seconds * 1e9);
  while (now_ns() < end) {
    step();
    count += kStep;
  }
  const double took = static_cast<double>(now_ns() - start) / 1e9;
  for (CUdeviceptr block : blocks) pool.give(block);
  Line("cache").add("rate", static_cast<double>(count) / took).add("ok", true).print();
}

void contend(const Gpu& gpu, int threads, int rounds, int64_t start_ns) {
  const Driver& d = gpu.driver();
  CUcontext context = nullptr;
  must(d.cuCtxGetCurrent(&context), "cuCtxGetCurrent");
  std::vector<Times> times(static_cast<size_t>(threads));
  std::vector<std::thread> running;
  for (Times& mine : times) {
    running.emplace_back([&d, context, rounds, start_ns, &mine] {
      must(d.cuCtxSetCurrent(context), "cuCtxSetCurrent");
      sleep_until(start_ns);
      for (int i = 0; i < rounds; ++i) {
        CUdeviceptr address = 0;
        mine.push_back(time_ns([&] { must(d.cuMemAlloc_v2(&address, kPage), "cuMemAlloc"); }));
        must(d.cuMemFree_v2(address), "cuMemFree");
      }
    });
  }
  for (std::thread& one : running) one.join();
  std::string text;
  for (const Times& mine : times) {
    for (double ns : mine) text.append(std::to_string(std::lround(ns))).append(1, ' ');
  }
  Line("contend").add("times", text).add("ok", true).print();
}

void deny(const Gpu& gpu, int rounds, uint64_t bytes) {
  const Driver& d = gpu.driver();
  Held held(d);
  if (bytes == 0) {
    held.fill(kGiB);
    bytes = kPage;
  }
  CUresult code = CUDA_SUCCESS;
  Times times;
  for (int i = 0; i < rounds; ++i) {
    CUdeviceptr address = 0;
    times.push_back(time_ns([&] { code = d.cuMemAlloc_v2(&address, bytes); }));
    if (code != CUDA_ERROR_OUT_OF_MEMORY) give_up("a request was not refused");
  }
  Line line("deny");
  line.add("median", median(&times)).add("p99", percentile(&times, 0.99));
  line.add("ok", true).print();
}

void fragment(const Gpu& gpu, uint64_t piece) {
  const Driver& d = gpu.driver();
  const uint64_t before = largest(d, memory_info(d).free);
  const double fresh = time_pair(d, 200, kPage).alloc;
  Held held(d);
  while (held.take(piece) == CUDA_SUCCESS) {
  }
  const size_t pieces = held.pieces();
  held.drop_every_second();
  const uint64_t free = memory_info(d).free;
  const uint64_t in_holes = largest(d, free);
  const double holed = time_pair(d, 200, kPage).alloc;
  held.drop();
  Line line("fragment");
  line.add("pieces", static_cast<uint64_t>(pieces)).add("free", free).add("largest", in_holes);
  line.add("largest_before", before).add("largest_after", largest(d, memory_info(d).free));
  line.add("alloc_before", fresh).add("alloc_in_holes", holed).add("ok", true).print();
}

void degrade(Gpu* gpu, uint64_t iterations) {
  const Driver& d = gpu->driver();
  // Before the memory is full: a stream and a kernel's first launch take some.
  CUstream stream = gpu->new_stream();
  const auto compute = [&] {
    gpu->launch(stream, iterations, gpu->full(), How::kPlain);
    gpu->expect(iterations, gpu->full(), 1);
    return gpu->verdict() == Gpu::Result::kRight;
  };
  if (!compute()) give_up("the result is wrong before anything was taken");
  Held held(d);
  int good = 0, tried = 0;
  const auto check = [&](bool fine) {
    good += fine;
    ++tried;
  };
  check(held.fill(kGiB) == CUDA_ERROR_OUT_OF_MEMORY);
  held.drop_last();
  check(held.take(kPage) == CUDA_SUCCESS);
  check(held.take(kGiB) == CUDA_ERROR_OUT_OF_MEMORY);
  constexpr uint32_t kPattern = 0x5a5a5a5a;
  uint32_t word = 0;
  check(d.cuMemsetD8_v2(held.last(), kPattern & 0xff, kPage) == CUDA_SUCCESS);
  check(d.cuMemcpyDtoH_v2(&word, held.last() + kPage - sizeof word, sizeof word) == CUDA_SUCCESS &&
        word == kPattern);
  check(compute());
  d.cuStreamDestroy_v2(stream);
  Line("degrade").add("good", good).add("tried", tried).add("ok", true).print();
}

}  // namespace softmig::bench
