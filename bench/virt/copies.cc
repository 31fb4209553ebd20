#include <dlfcn.h>

#include <cstring>

#include "virt/meters.h"

namespace softmig::bench {
namespace {

using gpu_test::Driver;

template <class Function>
Function driver_function(const char* name) {
  auto function = reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
  if (function == nullptr) give_up(std::string("no ") + name);
  return function;
}

// Memory of the host, pinned or not.
class HostBlock {
 public:
  HostBlock(const Driver& driver, uint64_t bytes, bool pinned) : driver_(driver) {
    if (pinned) {
      must(driver.cuMemHostAlloc(&pinned_, bytes, 0), "cuMemHostAlloc");
    } else {
      pageable_.resize(bytes);
    }
    std::memset(data(), 1, bytes);
  }
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;
  ~HostBlock() {
    if (pinned_ != nullptr) driver_.cuMemFreeHost(pinned_);
  }
  void* data() { return pinned_ != nullptr ? pinned_ : pageable_.data(); }

 private:
  const Driver& driver_;
  void* pinned_ = nullptr;
  std::vector<unsigned char> pageable_;
};

}  // namespace

void copy(const Gpu& gpu, const std::string& kind, uint64_t bytes, double seconds,
          int64_t start_ns) {
  const Driver& d = gpu.driver();
  const auto to_device = driver_function<decltype(&::cuMemcpyHtoDAsync_v2)>("cuMemcpyHtoDAsync_v2");
  const auto to_host = driver_function<decltype(&::cuMemcpyDtoHAsync_v2)>("cuMemcpyDtoHAsync_v2");
  const auto within = driver_function<decltype(&::cuMemcpyDtoDAsync_v2)>("cuMemcpyDtoDAsync_v2");
  CUstream stream = nullptr;
  must(d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  Held held(d);
  must(held.take(bytes), "cuMemAlloc");
  const CUdeviceptr first = held.last();
  must(held.take(bytes), "cuMemAlloc");
  const CUdeviceptr second = held.last();
  must(d.cuMemsetD8_v2(first, 1, bytes), "cuMemsetD8");
  HostBlock host(d, kind == "d2d" ? 1 : bytes, kind != "pageable");
  const auto once = [&] {
    CUresult code = CUDA_ERROR_INVALID_VALUE;
    if (kind == "h2d" || kind == "pageable") code = to_device(first, host.data(), bytes, stream);
    if (kind == "d2h") code = to_host(host.data(), first, bytes, stream);
    if (kind == "d2d") code = within(second, first, bytes, stream);
    must(code, "copy");
  };
  const auto some = [&](int count) {
    for (int i = 0; i < count; ++i) once();
    must(d.cuStreamSynchronize(stream), "cuStreamSynchronize");
  };
  some(1);
  sleep_until(start_ns);
  const int64_t start = now_ns(), end = start + static_cast<int64_t>(seconds * 1e9);
  uint64_t copied = 0;
  constexpr int kAtOnce = 8;
  while (now_ns() < end) {
    some(kAtOnce);
    copied += kAtOnce * bytes;
  }
  const auto took = static_cast<double>(now_ns() - start);
  d.cuStreamDestroy_v2(stream);
  gpu_test::Line line("copy");
  line.add("kind", kind).add("gb_s", static_cast<double>(copied) / took).add("ok", true).print();
}

}  // namespace softmig::bench
