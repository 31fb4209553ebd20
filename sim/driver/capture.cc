#include "driver/capture.h"

#include <algorithm>

#include "driver/graph.h"
#include "driver/objects.h"

namespace softmig::sim {
namespace {

CUstreamCaptureMode& thread_mode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

// Where a capture begins: in a graph of the program's, after nodes of it; none: in a new graph.
struct Origin {
  Graph* graph = nullptr;
  std::vector<Node*> tips;
};

CUresult begin(Call& call, CUstream handle, CUstreamCaptureMode mode, bool per_thread,
               const Origin& from = {}) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto* capture = new Capture();
  capture->graph = from.graph != nullptr ? from.graph : new Graph();
  capture->origin = stream;
  capture->mode = mode;
  capture->id = driver().next_id++;
  capture->thread = std::this_thread::get_id();
  capture->streams.insert(stream);
  stream->capture = capture;
  stream->tips = from.tips;
  driver().captures.insert(capture);
  return CUDA_SUCCESS;
}

CUresult begin_in_graph(Call& call, CUstream stream, CUgraph handle, const CUgraphNode* nodes,
                        size_t count, CUstreamCaptureMode mode, bool per_thread) {
  Origin from{live<Graph>(handle), {}};
  if (from.graph == nullptr || (nodes == nullptr && count != 0)) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; ++i) {
    auto* node = live<Node>(nodes[i]);
    if (node == nullptr || node->graph != from.graph) return CUDA_ERROR_INVALID_VALUE;
    from.tips.push_back(node);
  }
  return begin(call, stream, mode, per_thread, from);
}

// Whether every joined stream's work leads back to the origin.
bool is_joined(const Capture& capture) {
  for (const Stream* stream : capture.streams) {
    if (stream == capture.origin) continue;
    for (Node* tip : stream->tips) {
      const auto& ends = capture.origin->tips;
      const bool reached = std::any_of(ends.begin(), ends.end(), [tip](const Node* end) {
        return end == tip || is_ancestor(tip, end);
      });
      if (!reached) return false;
    }
  }
  return true;
}

void finish(Capture* capture) {
  for (Stream* stream : capture->streams) {
    stream->capture = nullptr;
    stream->tips.clear();
  }
  driver().captures.erase(capture);
}

CUresult end(Call& call, CUstream handle, CUgraph* out, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  Capture* capture = stream->capture;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = nullptr;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
      capture->thread != std::this_thread::get_id()) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  if (!capture->valid)
    code = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  else if (!is_joined(*capture))
    code = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  else
    *out = reinterpret_cast<CUgraph>(capture->graph);
  if (code != CUDA_SUCCESS) capture->graph->memory.clear();
  finish(capture);
  return code;
}

CUstreamCaptureStatus status_of(const Stream& stream) {
  if (stream.capture == nullptr) return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream.capture->valid ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                               : CU_STREAM_CAPTURE_STATUS_INVALIDATED;
}

CUresult is_capturing(Call& call, CUstream handle, CUstreamCaptureStatus* status, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  const Stream* stream = find_stream(handle, per_thread, call.context(), &code);
  if (stream == nullptr) return code;
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // The legacy stream would have to wait for a blocking stream that captures.
  if (stream == stream->context->legacy) {
    for (const Capture* capture : driver().captures) {
      const bool blocking = (capture->origin->flags & CU_STREAM_NON_BLOCKING) == 0;
      if (blocking && capture->origin->context == stream->context &&
          capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      }
    }
  }
  *status = status_of(*stream);
  return CUDA_SUCCESS;
}

struct Info {
  CUstreamCaptureStatus* status;
  cuuint64_t* id;
  CUgraph* graph;
  const CUgraphNode** dependencies;
  const CUgraphEdgeData** edges;
  size_t* count;
};

CUresult capture_info(Call& call, CUstream handle, const Info& info, bool per_thread) {
  const CUresult code = is_capturing(call, handle, info.status, per_thread);
  if (code != CUDA_SUCCESS || *info.status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return code;
  CUresult found = CUDA_SUCCESS;
  Stream* stream = find_stream(handle, per_thread, call.context(), &found);
  if (info.id != nullptr) *info.id = stream->capture->id;
  if (info.graph != nullptr) *info.graph = reinterpret_cast<CUgraph>(stream->capture->graph);
  if (info.dependencies != nullptr)
    *info.dependencies = reinterpret_cast<const CUgraphNode*>(stream->tips.data());
  if (info.edges != nullptr) *info.edges = nullptr;
  if (info.count != nullptr) *info.count = stream->tips.size();
  return CUDA_SUCCESS;
}

}  // namespace

bool invalidate_unsafe_captures() {
  bool found = false;
  const auto me = std::this_thread::get_id();
  const CUstreamCaptureMode mine = thread_mode();
  if (mine == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  for (Capture* capture : driver().captures) {
    const bool own = capture->thread == me && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    const bool global =
        capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && mine == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!own && !global) continue;
    capture->valid = false;
    found = true;
  }
  return found;
}

Route route_of(Stream* stream, CUresult* code) {
  if (stream->capture == nullptr) {
    // Work of the legacy stream waits for blocking streams, which a capture cannot do.
    const bool legacy = stream == stream->context->legacy;
    for (Capture* capture : driver().captures) {
      const bool blocking = (capture->origin->flags & CU_STREAM_NON_BLOCKING) == 0;
      if (!legacy || !blocking || capture->origin->context != stream->context) continue;
      capture->valid = false;
      *code = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      return Route::kFail;
    }
    return Route::kPlain;
  }
  if (stream->capture->valid) return Route::kCapture;
  *code = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  return Route::kFail;
}

void append_captured(Stream* stream, Node* node) {
  node->dependencies = stream->tips;
  stream->tips = {node};
}

CUresult join_capture(Stream* stream, Capture* capture, const std::vector<Node*>& tips) {
  if (!capture->valid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream->capture != nullptr && stream->capture != capture) {
    capture->valid = false;
    stream->capture->valid = false;
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  stream->capture = capture;
  capture->streams.insert(stream);
  for (Node* tip : tips) {
    if (std::find(stream->tips.begin(), stream->tips.end(), tip) == stream->tips.end())
      stream->tips.push_back(tip);
  }
  return CUDA_SUCCESS;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuStreamBeginCapture(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : begin(call, stream, CU_STREAM_CAPTURE_MODE_GLOBAL, false);
}

CUresult cuStreamBeginCapture_ptsz(CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : begin(call, stream, CU_STREAM_CAPTURE_MODE_GLOBAL, true);
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  Call call(__func__);
  return call.failed() ? call.code() : begin(call, stream, mode, false);
}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
  Call call(__func__);
  return call.failed() ? call.code() : begin(call, stream, mode, true);
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode* nodes,
                                     const CUgraphEdgeData*, std::size_t count,
                                     CUstreamCaptureMode mode) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return begin_in_graph(call, stream, graph, nodes, count, mode, false);
}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const CUgraphNode* nodes,
                                          const CUgraphEdgeData*, std::size_t count,
                                          CUstreamCaptureMode mode) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return begin_in_graph(call, stream, graph, nodes, count, mode, true);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  Call call(__func__);
  return call.failed() ? call.code() : end(call, stream, graph, false);
}

CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph* graph) {
  Call call(__func__);
  return call.failed() ? call.code() : end(call, stream, graph, true);
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  Call call(__func__);
  return call.failed() ? call.code() : is_capturing(call, stream, status, false);
}

CUresult cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus* status) {
  Call call(__func__);
  return call.failed() ? call.code() : is_capturing(call, stream, status, true);
}

CUresult cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, nullptr, nullptr, nullptr, nullptr}, false);
}

CUresult cuStreamGetCaptureInfo_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                     cuuint64_t* id) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, nullptr, nullptr, nullptr, nullptr}, true);
}

CUresult cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                   CUgraph* graph, const CUgraphNode** dependencies,
                                   std::size_t* count) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, graph, dependencies, nullptr, count}, false);
}

CUresult cuStreamGetCaptureInfo_v2_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies, std::size_t* count) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, graph, dependencies, nullptr, count}, true);
}

CUresult cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                   CUgraph* graph, const CUgraphNode** dependencies,
                                   const CUgraphEdgeData** edges, std::size_t* count) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, graph, dependencies, edges, count}, false);
}

CUresult cuStreamGetCaptureInfo_v3_ptsz(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies,
                                        const CUgraphEdgeData** edges, std::size_t* count) {
  Call call(__func__);
  if (call.failed()) return call.code();
  return capture_info(call, stream, {status, id, graph, dependencies, edges, count}, true);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::swap(*mode, thread_mode());
  return CUDA_SUCCESS;
}
