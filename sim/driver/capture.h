// Stream capture: which streams record into which graph, and what a capture forbids.
#pragma once

#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "abi/cuda.h"

namespace softmig::sim {

struct Graph;
struct Node;
struct Stream;

struct Capture {
  Graph* graph = nullptr;
  Stream* origin = nullptr;
  CUstreamCaptureMode mode{};
  bool valid = true;
  uint64_t id = 0;
  std::thread::id thread;
  std::set<Stream*> streams;
};

// True if this thread's mode forbids unsafe calls now; the captures that forbid them become
// invalid.
bool invalidate_unsafe_captures();

// What a stream operation has to do: go on (kPlain), add a node (kCapture), or fail with *code.
enum class Route { kPlain, kCapture, kFail };
Route route_of(Stream* stream, CUresult* code);

// Makes `node`, which is in the capture's graph, follow what the stream recorded before.
void append_captured(Stream* stream, Node* node);

// The stream follows `tips` too, in the capture that they belong to.
CUresult join_capture(Stream* stream, Capture* capture, const std::vector<Node*>& tips);

}  // namespace softmig::sim
