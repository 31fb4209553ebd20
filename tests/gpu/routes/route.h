// One way of taking device memory, in pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/gpu.h"

namespace softmig::gpu_test {

class Route {
 public:
  virtual ~Route() = default;
  // One more piece of about `bytes`. On success *got is the least that the device must hold for it.
  virtual CUresult take(uint64_t bytes, uint64_t* got) = 0;
  // Frees every piece; the first error, if any.
  virtual CUresult give_back() = 0;
  // Lets go of what may hold memory without any piece: a pool that hoards. Streams stay: the driver
  // keeps what they cost for the next ones.
  virtual void finish() {}
};

// The piece-wise routes, by name. make_route returns null for an unknown name and sets *missing if
// this driver (or the CUDA version that was asked for) lacks the functions.
std::vector<std::string> piece_routes();
std::unique_ptr<Route> make_route(std::string_view name, const Session& session, bool* missing);

// One family per file. Each returns null if the name is not one of its own.
std::unique_ptr<Route> make_linear_route(std::string_view name, const Session& session,
                                         bool* missing);
std::unique_ptr<Route> make_vmm_route(std::string_view name, const Session& session, bool* missing);
std::unique_ptr<Route> make_array_route(std::string_view name, const Session& session,
                                        bool* missing);
std::unique_ptr<Route> make_graph_route(std::string_view name, const Session& session,
                                        bool* missing);
std::unique_ptr<Route> make_object_route(std::string_view name, const Session& session,
                                         bool* missing);

struct Options {
  std::string route;
  std::string size;
  std::string lookup = "handle";
  uint64_t cap = 7 * kGiB;  // never hold more: the test then failed
  int device = 0;
  double hold_ms = 60;  // keeps everything this long after the refusal, for whoever watches
};

struct Filled {
  uint64_t granted = 0;
  uint64_t pieces = 0;
  CUresult last = CUDA_SUCCESS;
  bool capped = false;
};

// Takes pieces until one is refused. `size`: "64M", "fill:512" (large pieces first, then ever
// smaller ones down to this size) or "mixed" (512 B to 1 GiB, until not even 512 B are granted).
Filled fill(Route& route, std::string_view size, uint64_t cap);

// Routes that are whole programs of their own: two processes, or one huge request. They print their
// line and return the exit status; -1 if the name is not one of them.
int run_shared_route(const Options& options);
int run_single_request(const Options& options);

}  // namespace softmig::gpu_test
