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
    if (d.cuCtxCreate_v4 != nullptr) {
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

// First many streams, then plain memory: together they must stay below the limit.
class Streams : public Route {
 public:
  explicit Streams(const Session& session) : driver_(session.driver) {
    bool missing = false;
    memory_ = make_linear_route("alloc", session, &missing);
  }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    while (held_.size() < kMostStreams) {
      CUstream stream = nullptr;
      if (CUresult code = driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)) return code;
      held_.push_back(stream);
    }
    return memory_->take(bytes, got);
  }
  CUresult give_back() override {
    CUresult first = memory_->give_back();
    for (CUstream stream : held_) {
      if (CUresult code = driver_.cuStreamDestroy_v2(stream); first == CUDA_SUCCESS) first = code;
    }
    held_.clear();
    return first;
  }

 private:
  const Driver& driver_;
  std::unique_ptr<Route> memory_;
  std::vector<CUstream> held_;
};

class Green : public Route {
 public:
  explicit Green(const Session& session) : driver_(session.driver), device_(session.device) {
    bool missing = false;
    memory_ = make_linear_route("alloc", session, &missing);
  }
  CUresult take(uint64_t bytes, uint64_t* got) override {
    while (held_.size() < kMostGreen) {
      CUdevResource resource{};
      CUdevResourceDesc desc = nullptr;
      CUgreenCtx green = nullptr;
      CUresult code = driver_.cuDeviceGetDevResource(device_, &resource, CU_DEV_RESOURCE_TYPE_SM);
      if (code == CUDA_SUCCESS) code = driver_.cuDevResourceGenerateDesc(&desc, &resource, 1);
      if (code == CUDA_SUCCESS) code = driver_.cuGreenCtxCreate(&green, desc, device_, 1);
      if (code != CUDA_SUCCESS) return code;
      held_.push_back(green);
    }
    return memory_->take(bytes, got);
  }
  CUresult give_back() override {
    CUresult first = memory_->give_back();
    for (CUgreenCtx green : held_) {
      if (CUresult code = driver_.cuGreenCtxDestroy(green); first == CUDA_SUCCESS) first = code;
    }
    held_.clear();
    return first;
  }

 private:
  const Driver& driver_;
  CUdevice device_;
  std::unique_ptr<Route> memory_;
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
