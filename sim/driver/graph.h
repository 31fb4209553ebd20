// Graphs: nodes, what depends on what, and what a launch does.
//
// Memory of a graph: its allocation nodes have their addresses from the moment they are added. They
// lie in chunks of 32 MiB (or more, for one that is larger); the addresses of an allocation that
// the graph itself frees are used again by nodes that come after the free. A launch takes the
// memory of the chunks and keeps it until cuDeviceGraphMemTrim; memory that no running graph and no
// live allocation needs serves the next graph that is launched.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "driver/core.h"
#include "driver/objects.h"

namespace softmig::sim {

struct Exec;
struct Graph;

// Addresses of one graph, with the pages behind them while it has them.
struct GraphChunk {
  Range* range = nullptr;
  struct Slot {
    uint64_t begin = 0, end = 0;     // offsets
    std::vector<Node*> allocations;  // that used the place, one after the other
  };
  std::vector<Slot> slots;
  uint64_t filled = 0;
  std::map<uint64_t, uint64_t> live;  // offset -> bytes: allocated and not freed
};

// All chunks of a graph; lives as long as the graph, one of its executables, or an allocation.
struct GraphMemory {
  Device* device = nullptr;
  std::vector<std::unique_ptr<GraphChunk>> chunks;
  bool mapped = false;
  ~GraphMemory();
  uint64_t bytes() const;
  bool has_live() const;
};

struct Copy {
  uint64_t to = 0, from = 0, bytes = 0;
};

struct Set {
  uint64_t to = 0;
  uint32_t value = 0;
  unsigned int width = 1;
  uint64_t count = 0;
};

struct Node {
  static constexpr Mark kMark = kNode;
  Mark mark = kNode;
  Graph* graph = nullptr;
  CUgraphNodeType type{};
  std::vector<Node*> dependencies;
  Function* function = nullptr;
  Work work{0, 0, 0};  // of a kernel
  Sum sum;             // what it leaves in memory
  Graph* child = nullptr;
  bool is_skipped = false;  // a condition that does not hold: the child does not run
  CUhostFn host_fn = nullptr;
  void* host_data = nullptr;
  Copy copy;
  Set set;
  uint64_t address = 0;  // of the allocation made or freed
  uint64_t bytes = 0;
  CUgraph body = nullptr;  // of a condition: the child's handle
  GraphChunk* chunk = nullptr;
  Node* freed_by = nullptr;
};

struct Graph {
  static constexpr Mark kMark = kGraph;
  Mark mark = kGraph;
  std::vector<std::unique_ptr<Node>> nodes;
  std::map<Device*, std::shared_ptr<GraphMemory>> memory;
  Exec* instance = nullptr;  // graphs with memory have no more than one at a time
  bool has_memory_nodes() const { return !memory.empty(); }
};

struct Exec {
  static constexpr Mark kMark = kExec;
  Mark mark = kExec;
  Graph* graph = nullptr;  // a copy of its own, or the graph itself where it has memory nodes
  std::vector<std::shared_ptr<GraphMemory>> memory;
  Work work{0, 0, 0};  // of all its kernels
  bool auto_free = false;
  Ticket last;  // where the last launch ends
  struct Step {
    CUgraphNodeType type;
    uint64_t at_ns;  // of its work
    CUhostFn host_fn;
    void* host_data;
    Copy copy;
    Set set;
    Sum sum;
    uint64_t address;
    uint64_t bytes;
  };
  std::vector<Step> steps;  // what a launch does, in an order that meets the dependencies
};

Node* add_node(Graph* graph, CUgraphNodeType type);
// An allocation that follows `dependencies`; its address is set.
Node* add_alloc_node(Graph* graph, Device* device, uint64_t bytes,
                     const std::vector<Node*>& dependencies);
// Null if the address is not one that this graph allocates and does not free yet; addresses of
// other graphs' allocations are fine.
Node* add_free_node(Graph* graph, uint64_t address);

bool is_ancestor(const Node* node, const Node* of);

// --- graph_plan.cc
// What a launch of the graph does and asks of the device, were it alone there. The steps come in an
// order that meets the dependencies.
Work plan_graph(const Graph& graph, std::vector<Exec::Step>* steps);

Graph* clone_graph(const Graph& graph);

// --- graph_memory.cc
// Puts pages behind the memory for a launch that ends with `last`; false where there are none.
bool map_graph_memory(const std::shared_ptr<GraphMemory>& memory, const Ticket& last);
void mark_allocated(uint64_t address, uint64_t bytes);
void trim_graph_memory(Device* device);
uint64_t graph_attribute(Device* device, CUgraphMem_attribute attribute);
void reset_graph_high(Device* device);

}  // namespace softmig::sim
