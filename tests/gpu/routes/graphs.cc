// Memory that a graph takes when it is launched: nodes added by hand, and captured ones. Every
// piece is a graph of its own whose memory outlives the launch.
#include <algorithm>

#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kSmall = 2 * kMiB;  // smaller pieces: several nodes in one graph
constexpr uint64_t kMaxNodes = 256;

class Graph : public Route {
 public:
  Graph(const Session& session, bool captured)
      : driver_(session.driver), device_(session.device), captured_(captured) {
    driver_.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING);
  }
  ~Graph() override { driver_.cuStreamDestroy_v2(stream_); }

  CUresult take(uint64_t bytes, uint64_t* got) override {
    const uint64_t nodes = bytes >= kSmall ? 1 : std::min(kMaxNodes, kSmall / bytes);
    Piece piece{};
    CUresult code = captured_ ? capture(bytes, nodes, &piece) : build(bytes, nodes, &piece);
    if (code == CUDA_SUCCESS)
      code = driver_.cuGraphInstantiateWithFlags(&piece.exec, piece.graph, 0);
    if (code == CUDA_SUCCESS) code = driver_.cuGraphLaunch(piece.exec, stream_);
    if (code == CUDA_SUCCESS) code = driver_.cuStreamSynchronize(stream_);
    if (code != CUDA_SUCCESS) {
      piece.addresses.clear();
      drop(piece);
      return code;
    }
    held_.push_back(std::move(piece));
    *got = nodes * bytes;
    return code;
  }

  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (const Piece& piece : held_) {
      if (CUresult code = drop(piece); first == CUDA_SUCCESS) first = code;
    }
    held_.clear();
    driver_.cuStreamSynchronize(stream_);
    const CUresult trimmed = driver_.cuDeviceGraphMemTrim(device_);
    return first != CUDA_SUCCESS ? first : trimmed;
  }

 private:
  struct Piece {
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    std::vector<CUdeviceptr> addresses;
  };

  CUresult build(uint64_t bytes, uint64_t nodes, Piece* piece) {
    CUresult code = driver_.cuGraphCreate(&piece->graph, 0);
    for (uint64_t i = 0; code == CUDA_SUCCESS && i < nodes; ++i) {
      CUDA_MEM_ALLOC_NODE_PARAMS params{};
      params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
      params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
      params.bytesize = bytes;
      CUgraphNode node = nullptr;
      code = driver_.cuGraphAddMemAllocNode(&node, piece->graph, nullptr, 0, &params);
      if (code == CUDA_SUCCESS) piece->addresses.push_back(params.dptr);
    }
    return code;
  }

  CUresult capture(uint64_t bytes, uint64_t nodes, Piece* piece) {
    CUresult code = driver_.cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL);
    if (code != CUDA_SUCCESS) return code;
    for (uint64_t i = 0; code == CUDA_SUCCESS && i < nodes; ++i) {
      CUdeviceptr address = 0;
      code = driver_.cuMemAllocAsync(&address, bytes, stream_);
      if (code == CUDA_SUCCESS) piece->addresses.push_back(address);
    }
    const CUresult ended = driver_.cuStreamEndCapture(stream_, &piece->graph);
    return code != CUDA_SUCCESS ? code : ended;
  }

  CUresult drop(const Piece& piece) {
    CUresult first = CUDA_SUCCESS;
    for (CUdeviceptr address : piece.addresses) {
      if (CUresult code = driver_.cuMemFreeAsync(address, stream_); first == CUDA_SUCCESS)
        first = code;
    }
    if (piece.exec != nullptr) driver_.cuGraphExecDestroy(piece.exec);
    if (piece.graph != nullptr) driver_.cuGraphDestroy(piece.graph);
    return first;
  }

  const Driver& driver_;
  CUdevice device_;
  bool captured_;
  CUstream stream_ = nullptr;
  std::vector<Piece> held_;
};

}  // namespace

std::unique_ptr<Route> make_graph_route(std::string_view name, const Session& session,
                                        bool* missing) {
  if (name != "graph" && name != "graph_captured") return nullptr;
  *missing = session.driver.cuGraphAddMemAllocNode == nullptr;
  if (*missing) return nullptr;
  return std::make_unique<Graph>(session, name == "graph_captured");
}

}  // namespace softmig::gpu_test
