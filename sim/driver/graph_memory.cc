// The pages behind graphs' allocations.
#include <algorithm>

#include "driver/graph.h"
#include "state/state.h"

namespace softmig::sim {

// What graphs hold of one device.
struct GraphPool {
  std::set<std::shared_ptr<GraphMemory>> mapped;  // have their pages
  std::map<GraphMemory*, Tickets> busy;           // launches that use it
  uint64_t idle = 0;                              // bytes that are taken and behind no graph
  uint64_t high = 0;
};

namespace {

constexpr uint64_t kStep = 32 * kMiB;

GraphPool& pool_of(Device* device) {
  if (device->graph_pool == nullptr) device->graph_pool = new GraphPool();
  return *device->graph_pool;
}

uint64_t reserved(const GraphPool& pool) {
  uint64_t bytes = pool.idle;
  for (const auto& memory : pool.mapped) bytes += memory->bytes();
  return bytes;
}

// Takes the pages from under memory that no launch and no allocation uses.
void collect_idle(GraphPool* pool, const GraphMemory* keep) {
  look();
  for (auto at = pool->mapped.begin(); at != pool->mapped.end();) {
    const std::shared_ptr<GraphMemory> memory = *at;
    if (memory.get() == keep || memory->has_live() || !are_done(pool->busy[memory.get()])) {
      ++at;
      continue;
    }
    pool->idle += memory->bytes();
    memory->mapped = false;
    pool->busy.erase(memory.get());
    at = pool->mapped.erase(at);
  }
}

GraphChunk* new_chunk(GraphMemory* memory, uint64_t bytes) {
  const uint64_t base = driver().space.take(bytes, kPage);
  auto chunk = std::make_unique<GraphChunk>();
  chunk->range = add_range(RangeKind::kGraph, base, bytes, memory->device, nullptr);
  chunk->range->graph = chunk.get();
  chunk->range->storage = std::make_shared<Storage>();
  memory->chunks.push_back(std::move(chunk));
  return memory->chunks.back().get();
}

bool follows(const std::vector<Node*>& dependencies, const Node* node) {
  return std::any_of(dependencies.begin(), dependencies.end(),
                     [node](const Node* one) { return one == node || is_ancestor(node, one); });
}

// A place that an allocation had which is freed before any of `dependencies` is done.
uint64_t used_place(GraphMemory* memory, uint64_t bytes, const std::vector<Node*>& dependencies,
                    Node* node) {
  for (auto& chunk : memory->chunks) {
    for (GraphChunk::Slot& slot : chunk->slots) {
      const Node* freed_by = slot.allocations.back()->freed_by;
      if (slot.end - slot.begin < bytes || freed_by == nullptr || !follows(dependencies, freed_by))
        continue;
      slot.allocations.push_back(node);
      node->chunk = chunk.get();
      return chunk->range->base + slot.begin;
    }
  }
  return 0;
}

uint64_t new_place(GraphMemory* memory, uint64_t bytes, Node* node) {
  GraphChunk* chunk = nullptr;
  for (auto& one : memory->chunks) {
    if (one->range->bytes - one->filled >= bytes) chunk = one.get();
  }
  if (chunk == nullptr) chunk = new_chunk(memory, round_up(bytes, kStep));
  const uint64_t begin = chunk->filled;
  chunk->filled += bytes;
  chunk->slots.push_back({begin, begin + bytes, {node}});
  node->chunk = chunk;
  return chunk->range->base + begin;
}

}  // namespace

GraphMemory::~GraphMemory() {
  for (auto& chunk : chunks) free_range(chunk->range);
}

uint64_t GraphMemory::bytes() const {
  uint64_t sum = 0;
  for (const auto& chunk : chunks) sum += chunk->range->bytes;
  return sum;
}

bool GraphMemory::has_live() const {
  return std::any_of(chunks.begin(), chunks.end(),
                     [](const auto& chunk) { return !chunk->live.empty(); });
}

Node* add_alloc_node(Graph* graph, Device* device, uint64_t bytes,
                     const std::vector<Node*>& dependencies) {
  std::shared_ptr<GraphMemory>& memory = graph->memory[device];
  if (memory == nullptr) {
    memory = std::make_shared<GraphMemory>();
    memory->device = device;
  }
  Node* node = add_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
  const uint64_t rounded = round_up(bytes, kUnit);
  node->bytes = bytes;
  node->address = used_place(memory.get(), rounded, dependencies, node);
  if (node->address == 0) node->address = new_place(memory.get(), rounded, node);
  return node;
}

Node* add_free_node(Graph* graph, uint64_t address) {
  Range* range = find_range(address);
  if (range == nullptr || range->kind != RangeKind::kGraph) return nullptr;
  Node* allocation = nullptr;
  bool own = false;
  for (const auto& node : graph->nodes) {
    if (node->type != CU_GRAPH_NODE_TYPE_MEM_ALLOC) continue;
    own |= node->chunk == range->graph;
    if (node->address == address && node->freed_by == nullptr) allocation = node.get();
  }
  if (own && allocation == nullptr) return nullptr;
  Node* node = add_node(graph, CU_GRAPH_NODE_TYPE_MEM_FREE);
  node->address = address;
  if (allocation != nullptr) allocation->freed_by = node;
  return node;
}

bool map_graph_memory(const std::shared_ptr<GraphMemory>& memory, const Ticket& last) {
  GraphPool& pool = pool_of(memory->device);
  if (!memory->mapped) {
    const uint64_t need = memory->bytes();
    if (pool.idle < need) collect_idle(&pool, memory.get());
    const uint64_t fresh = need > pool.idle ? need - pool.idle : 0;
    if (fresh != 0 && !driver().process->take(memory->device->index, fresh)) return false;
    pool.idle += fresh;
    pool.idle -= need;
    memory->mapped = true;
    pool.mapped.insert(memory);
    pool.high = std::max(pool.high, reserved(pool));
  }
  add_ticket(&pool.busy[memory.get()], last);
  return true;
}

void trim_graph_memory(Device* device) {
  GraphPool& pool = pool_of(device);
  collect_idle(&pool, nullptr);
  if (pool.idle != 0) driver().process->give(device->index, pool.idle);
  pool.idle = 0;
}

// With the last context of the device everything ends, allocations that live as well.
void forget_graph_memory(Device* device) {
  GraphPool& pool = pool_of(device);
  for (const auto& memory : pool.mapped) {
    for (auto& chunk : memory->chunks) chunk->live.clear();
  }
  pool.busy.clear();
  trim_graph_memory(device);
}

uint64_t graph_attribute(Device* device, CUgraphMem_attribute attribute) {
  const GraphPool& pool = pool_of(device);
  const bool high = attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH ||
                    attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
  return high ? pool.high : reserved(pool);
}

void reset_graph_high(Device* device) {
  GraphPool& pool = pool_of(device);
  pool.high = reserved(pool);
}

void mark_allocated(uint64_t address, uint64_t bytes) {
  Range* range = find_range(address);
  range->graph->live[address - range->base] = bytes;
}

bool free_graph_address(Range* range, uint64_t address) {
  return range->graph->live.erase(address - range->base) != 0;
}

bool find_graph_extent(Range* range, uint64_t address, Extent* extent) {
  const auto& live = range->graph->live;
  auto at = live.upper_bound(address - range->base);
  if (at == live.begin()) return false;
  --at;
  extent->base = range->base + at->first;
  extent->bytes = at->second;
  return address - extent->base < at->second;
}

}  // namespace softmig::sim
