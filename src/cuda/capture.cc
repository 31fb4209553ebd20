// Stream captures are counted, so that launches need not ask whether theirs is one while there is
// none. A count that is too high costs a launch 0.1 us, one that is too low a capture.
#include "cuda/throttle.h"

SM_DRIVER(cuStreamIsCapturing);
SM_DRIVER(cuStreamIsCapturing_ptsz);

namespace softmig::cuda {
namespace {

// Before the call: from its first instant on, launches must ask.
template <typename Call>
CUresult begin_capture(Call call) {
  count_capture(1);
  const CUresult result = call();
  if (result != CUDA_SUCCESS) count_capture(-1);
  return result;
}

template <typename IsCapturing>
bool is_capturing(CUstream stream, IsCapturing& ask) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return ask(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// A capture may end with an error, and an error need not end it.
template <typename IsCapturing, typename Call>
CUresult end_capture(CUstream stream, IsCapturing& ask, Call call) {
  const bool was_open = is_capturing(stream, ask);
  const CUresult result = call();
  if (was_open && !is_capturing(stream, ask)) count_capture(-1);
  return result;
}

}  // namespace
}  // namespace softmig::cuda

using softmig::cuda::begin_capture;
using softmig::cuda::end_capture;
using softmig::cuda::throttles;

SM_COMPUTE_HOOK(cuStreamBeginCapture, 10000) CUresult cuStreamBeginCapture(CUstream stream) {
  if (!throttles()) return next_cuStreamBeginCapture(stream);
  return begin_capture([=] { return next_cuStreamBeginCapture(stream); });
}

SM_COMPUTE_HOOK(cuStreamBeginCapture_ptsz, 10000)
CUresult cuStreamBeginCapture_ptsz(CUstream stream) {
  if (!throttles()) return next_cuStreamBeginCapture_ptsz(stream);
  return begin_capture([=] { return next_cuStreamBeginCapture_ptsz(stream); });
}

SM_COMPUTE_HOOK(cuStreamBeginCapture_v2, 10010)
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  if (!throttles()) return next_cuStreamBeginCapture_v2(stream, mode);
  return begin_capture([=] { return next_cuStreamBeginCapture_v2(stream, mode); });
}

SM_COMPUTE_HOOK(cuStreamBeginCapture_v2_ptsz, 10010)
CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
  if (!throttles()) return next_cuStreamBeginCapture_v2_ptsz(stream, mode);
  return begin_capture([=] { return next_cuStreamBeginCapture_v2_ptsz(stream, mode); });
}

SM_COMPUTE_HOOK(cuStreamBeginCaptureToGraph, 12030)
CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode* nodes,
                                     const CUgraphEdgeData* edges, size_t count,
                                     CUstreamCaptureMode mode) {
  const auto call = [=] {
    return next_cuStreamBeginCaptureToGraph(stream, graph, nodes, edges, count, mode);
  };
  return throttles() ? begin_capture(call) : call();
}

SM_COMPUTE_HOOK(cuStreamBeginCaptureToGraph_ptsz, 12030)
CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const CUgraphNode* nodes,
                                          const CUgraphEdgeData* edges, size_t count,
                                          CUstreamCaptureMode mode) {
  const auto call = [=] {
    return next_cuStreamBeginCaptureToGraph_ptsz(stream, graph, nodes, edges, count, mode);
  };
  return throttles() ? begin_capture(call) : call();
}

SM_COMPUTE_HOOK(cuStreamEndCapture, 10000)
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  if (!throttles()) return next_cuStreamEndCapture(stream, graph);
  return end_capture(stream, next_cuStreamIsCapturing,
                     [=] { return next_cuStreamEndCapture(stream, graph); });
}

SM_COMPUTE_HOOK(cuStreamEndCapture_ptsz, 10000)
CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph* graph) {
  if (!throttles()) return next_cuStreamEndCapture_ptsz(stream, graph);
  return end_capture(stream, next_cuStreamIsCapturing_ptsz,
                     [=] { return next_cuStreamEndCapture_ptsz(stream, graph); });
}
