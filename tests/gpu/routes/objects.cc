// Things that cost memory without being memory: contexts, streams, green contexts. And `all`, which
// mixes every route in one process.
#include <random>

#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

constexpr size_t kMostStreams = 512;
constexpr size_t kMostGreen = 16;

class Contexts : public Route {
 public:
  explicit Contexts(const Session& session) : session_(session) {}
  CUresult take(uint64_t, uint64_t* got) override {
    const Driver& d = session_.driver;
    CUcontext context = nullptr;
    CUresult code = CUDA_ERROR_NOT_SUPPORTED;
    int version = 0;  // a preloaded library may export more than the driver behind it has
    d.cuDriverGetVersion(&version);
    if (d.cuCtxCreate_v4 != nullptr && version >= 12050) {
      CUctxCreateParams params{};
      code = d.cuCtxCreate_v4(&context, &params, 0, session_.device);
    } else if (d.cuCtxCreate_v3 != nullptr) {
      code = d.cuCtxCreate_v3(&context, nullptr, 0, 0, session_.device);
    } else if (d.cuCtxCreate_v2 != nullptr) {
      code = d.cuCtxCreate_v2(&context, 0, session_.device);
    }
    if (code != CUDA_SUCCESS) return code;
    held_.push_back(context);
    *got = 400 * kMiB;  // what a context costs at least on the cards that we know
    return code;
  }
  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (CUcontext context : held_) {
      if (CUresult code = session_.driver.cuCtxDestroy_v2(context); first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    session_.driver.cuCtxSetCurrent(session_.context);
    return first;
  }

 private:
  const Session& session_;
  std::vector<CUcontext> held_;
};

// Many streams or green contexts, then plain memory: together they must stay below the limit.
class Crowded : public Route {
 public:
  explicit Crowded(const Session& session) : driver_(session.driver), device_(session.device) {
    bool missing = false;
    memory_ = make_linear_route("alloc", session, &missing);
  }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    return crowd_ == CUDA_SUCCESS ? memory_->take(bytes, got) : crowd_;
  }
  CUresult give_back() override { return memory_->give_back(); }

 protected:
  const Driver& driver_;
  CUdevice device_;
  CUresult crowd_ = CUDA_SUCCESS;  // the first error while the crowd was made

 private:
  std::unique_ptr<Route> memory_;
};

class Streams : public Crowded {
 public:
  explicit Streams(const Session& session) : Crowded(session) {
    while (crowd_ == CUDA_SUCCESS && held_.size() < kMostStreams) {
      CUstream stream = nullptr;
      crowd_ = driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
      if (crowd_ == CUDA_SUCCESS) held_.push_back(stream);
    }
  }
  ~Streams() override {
    for (CUstream stream : held_) driver_.cuStreamDestroy_v2(stream);
  }

 private:
  std::vector<CUstream> held_;
};

class Green : public Crowded {
 public:
  explicit Green(const Session& session) : Crowded(session) {
    while (crowd_ == CUDA_SUCCESS && held_.size() < kMostGreen) {
      CUdevResource resource{};
      CUdevResourceDesc desc = nullptr;
      CUgreenCtx green = nullptr;
      crowd_ = driver_.cuDeviceGetDevResource(device_, &resource, CU_DEV_RESOURCE_TYPE_SM);
      if (crowd_ == CUDA_SUCCESS) crowd_ = driver_.cuDevResourceGenerateDesc(&desc, &resource, 1);
      if (crowd_ == CUDA_SUCCESS) crowd_ = driver_.cuGreenCtxCreate(&green, desc, device_, 1);
      if (crowd_ == CUDA_SUCCESS) held_.push_back(green);
    }
  }
  ~Green() override {
    for (CUgreenCtx green : held_) driver_.cuGreenCtxDestroy(green);
  }

 private:
  std::vector<CUgreenCtx> held_;
};

// Every kind of memory at once, one route picked at random per piece (fixed seed).
class All : public Route {
 public:
  explicit All(const Session& session) {
    for (const std::string& name : piece_routes()) {
      if (name == "all" || name == "contexts" || name == "streams" || name == "green" ||
          name == "alloc_v1")
        continue;
      bool missing = false;
      if (auto route = make_route(name, session, &missing)) routes_.push_back(std::move(route));
    }
  }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    return routes_[random_() % routes_.size()]->take(bytes, got);
  }
  void finish() override {
    for (auto& route : routes_) route->finish();
  }
  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (auto& route : routes_) {
      if (CUresult code = route->give_back(); first == CUDA_SUCCESS) first = code;
    }
    return first;
  }

 private:
  std::vector<std::unique_ptr<Route>> routes_;
  std::mt19937 random_{7};
};

}  // namespace

std::vector<std::string> piece_routes() {
  return {"alloc",         "alloc_v1",      "pitch",         "pitch_padded",
          "managed",       "async",         "pool",          "pool_hold",
          "create",        "create_map",    "array_1d",      "array_2d",
          "array_3d",      "array_layered", "array_cubemap", "array_cubemap_layered",
          "array_surface", "mipmapped",     "graph",         "graph_captured",
          "contexts",      "streams",       "green",         "all"};
}

std::unique_ptr<Route> make_object_route(std::string_view name, const Session& session,
                                         bool* missing) {
  *missing = false;
  if (name == "contexts") return std::make_unique<Contexts>(session);
  if (name == "streams") return std::make_unique<Streams>(session);
  if (name == "all") return std::make_unique<All>(session);
  if (name != "green") return nullptr;
  *missing = session.driver.cuGreenCtxCreate == nullptr ||
             session.driver.cuDeviceGetDevResource == nullptr;
  if (*missing) return nullptr;
  return std::make_unique<Green>(session);
}

std::unique_ptr<Route> make_route(std::string_view name, const Session& session, bool* missing) {
  *missing = false;
  for (auto family :
       {make_linear_route, make_vmm_route, make_array_route, make_graph_route, make_object_route}) {
    if (auto route = family(name, session, missing)) return route;
    if (*missing) return nullptr;
  }
  return nullptr;
}

}  // namespace softmig::gpu_test
