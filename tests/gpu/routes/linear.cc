// Linear memory: cuMemAlloc and its relatives, stream-ordered memory and pools.
#include <algorithm>

#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

class LinearRoute : public Route {
 public:
  explicit LinearRoute(const Session& session) : driver_(session.driver), device_(session.device) {}

  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (CUdeviceptr address : held_) {
      if (CUresult code = release(address); code != CUDA_SUCCESS && first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    return first;
  }

 protected:
  virtual CUresult release(CUdeviceptr address) { return driver_.cuMemFree_v2(address); }
  CUresult keep(CUresult code, const CUdeviceptr& address, uint64_t bytes, uint64_t* got) {
    if (code != CUDA_SUCCESS) return code;
    held_.push_back(address);
    *got = bytes;
    return code;
  }

  const Driver& driver_;
  CUdevice device_;

 private:
  std::vector<CUdeviceptr> held_;
};

class Plain : public LinearRoute {
 public:
  using LinearRoute::LinearRoute;
  CUresult take(uint64_t bytes, uint64_t* got) override {
    CUdeviceptr address = 0;
    return keep(driver_.cuMemAlloc_v2(&address, bytes), address, bytes, got);
  }
};

// The function of CUDA 2 with its 32-bit arguments, still exported.
class PlainV1 : public LinearRoute {
 public:
  using LinearRoute::LinearRoute;
  CUresult take(uint64_t bytes, uint64_t* got) override {
    CUdeviceptr_v1 address = 0;
    const uint64_t clipped = std::min<uint64_t>(bytes, kGiB);
    const CUresult code = driver_.cuMemAlloc(&address, static_cast<unsigned int>(clipped));
    return keep(code, address, clipped, got);
  }

 protected:
  CUresult release(CUdeviceptr address) override {
    return driver_.cuMemFree(static_cast<CUdeviceptr_v1>(address));
  }
};

// Rows of 64 KiB, or of one byte: then nearly all of what the device holds is padding.
class Pitch : public LinearRoute {
 public:
  Pitch(const Session& session, bool padded) : LinearRoute(session), padded_(padded) {}
  CUresult take(uint64_t bytes, uint64_t* got) override {
    const uint64_t row = padded_ ? 512 : std::min<uint64_t>(bytes, 64 * kKiB);
    const uint64_t width = padded_ ? 1 : row;
    CUdeviceptr address = 0;
    size_t pitch = 0;
    const uint64_t rows = std::max<uint64_t>(1, bytes / row);
    const CUresult code = driver_.cuMemAllocPitch_v2(&address, &pitch, width, rows, 4);
    return keep(code, address, pitch * rows, got);
  }

 private:
  bool padded_;
};

// Never touched: the driver takes memory only as pages are used, the slice counts the size.
class Managed : public LinearRoute {
 public:
  using LinearRoute::LinearRoute;
  CUresult take(uint64_t bytes, uint64_t* got) override {
    CUdeviceptr address = 0;
    return keep(driver_.cuMemAllocManaged(&address, bytes, CU_MEM_ATTACH_GLOBAL), address, bytes,
                got);
  }
};

class Async : public LinearRoute {
 public:
  explicit Async(const Session& session) : LinearRoute(session) {
    driver_.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING);
  }
  ~Async() override { driver_.cuStreamDestroy_v2(stream_); }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    CUdeviceptr address = 0;
    return keep(driver_.cuMemAllocAsync(&address, bytes, stream_), address, bytes, got);
  }
  CUresult give_back() override {
    const CUresult code = LinearRoute::give_back();
    const CUresult synced = driver_.cuStreamSynchronize(stream_);
    return code != CUDA_SUCCESS ? code : synced;
  }

 protected:
  CUresult release(CUdeviceptr address) override {
    return driver_.cuMemFreeAsync(address, stream_);
  }
  CUstream stream_ = nullptr;
};

// A pool of one's own; with `hold` it never gives memory back to the driver by itself.
class OwnPool : public Async {
 public:
  OwnPool(const Session& session, bool hold) : Async(session) {
    CUmemPoolProps props{};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, session.device};
    driver_.cuMemPoolCreate(&pool_, &props);
    cuuint64_t threshold = ~cuuint64_t{0};
    if (hold) driver_.cuMemPoolSetAttribute(pool_, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold);
  }
  void finish() override { driver_.cuMemPoolDestroy(pool_); }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    CUdeviceptr address = 0;
    return keep(driver_.cuMemAllocFromPoolAsync(&address, bytes, pool_, stream_), address, bytes,
                got);
  }

 private:
  CUmemoryPool pool_ = nullptr;
};

}  // namespace

std::unique_ptr<Route> make_linear_route(std::string_view name, const Session& session,
                                         bool* missing) {
  const Driver& d = session.driver;
  const bool pools = d.cuMemAllocAsync != nullptr && d.cuMemFreeAsync != nullptr &&
                     d.cuMemPoolCreate != nullptr && d.cuMemAllocFromPoolAsync != nullptr;
  if (name == "alloc") return std::make_unique<Plain>(session);
  if (name == "pitch") return std::make_unique<Pitch>(session, false);
  if (name == "pitch_padded") return std::make_unique<Pitch>(session, true);
  if (name == "managed") return std::make_unique<Managed>(session);
  *missing = name == "alloc_v1" && d.cuMemAlloc == nullptr;
  if (name == "alloc_v1" && !*missing) return std::make_unique<PlainV1>(session);
  if (name != "async" && name != "pool" && name != "pool_hold") return nullptr;
  *missing = !pools;
  if (*missing) return nullptr;
  if (name == "async") return std::make_unique<Async>(session);
  return std::make_unique<OwnPool>(session, name == "pool_hold");
}

}  // namespace softmig::gpu_test
