// What a graph does when it is launched: which node begins when, and what all of it takes.
#include <algorithm>
#include <unordered_map>

#include "driver/graph.h"

namespace softmig::sim {
namespace {

// A node, or the end of a child graph.
struct Task {
  const Node* node = nullptr;
  bool is_end = false;
  uint64_t left = 0;
  uint32_t fill = 1;
  uint32_t share = 0;
  size_t before = 0;          // tasks that it still waits for
  std::vector<size_t> after;  // tasks that wait for it
};

// The tasks of a graph and of its children. A child graph begins where its node's dependencies are
// done, and what depends on the node waits for all of it.
class Plan {
 public:
  explicit Plan(const Graph& graph) { add(graph, {}); }
  Work run(std::vector<Exec::Step>* steps);

 private:
  size_t add_task(const Node* node, const std::vector<size_t>& before);
  std::vector<size_t> add(const Graph& graph, const std::vector<size_t>& roots);
  void begin(size_t task, std::vector<Exec::Step>* steps);
  void end(size_t task);
  uint64_t share_out();

  std::vector<Task> tasks_;
  std::vector<size_t> ready_, running_;
  uint64_t now_ = 0;
};

size_t Plan::add_task(const Node* node, const std::vector<size_t>& before) {
  const size_t made = tasks_.size();
  Task task;
  task.node = node;
  task.left = node->work.ns;
  task.fill = std::max<uint32_t>(1, node->work.fill);
  task.before = before.size();
  for (size_t one : before) tasks_[one].after.push_back(made);
  tasks_.push_back(std::move(task));
  return made;
}

// Returns the tasks that end the graph's nodes.
std::vector<size_t> Plan::add(const Graph& graph, const std::vector<size_t>& roots) {
  std::unordered_map<const Node*, size_t> made;
  std::vector<size_t> all;
  std::vector<const Node*> open;
  for (const auto& node : graph.nodes) open.push_back(node.get());
  std::reverse(open.begin(), open.end());
  while (!open.empty()) {
    const Node* node = open.back();
    const auto missing = std::find_if(node->dependencies.begin(), node->dependencies.end(),
                                      [&](const Node* one) { return made.count(one) == 0; });
    if (made.count(node) == 0 && missing != node->dependencies.end()) {
      open.push_back(*missing);
      continue;
    }
    open.pop_back();
    if (made.count(node) != 0) continue;
    std::vector<size_t> before = node->dependencies.empty() ? roots : std::vector<size_t>();
    for (const Node* one : node->dependencies) before.push_back(made[one]);
    if (node->child != nullptr && !node->is_skipped) {
      const std::vector<size_t> inner = add(*node->child, before);
      before.insert(before.end(), inner.begin(), inner.end());
    }
    made[node] = add_task(node, before);
    tasks_.back().is_end = node->child != nullptr;
    all.push_back(made[node]);
  }
  return all;
}

void Plan::begin(size_t task, std::vector<Exec::Step>* steps) {
  const Node& node = *tasks_[task].node;
  if (!tasks_[task].is_end) {
    steps->push_back({node.type, now_, node.host_fn, node.host_data, node.copy, node.set, node.sum,
                      node.address, node.bytes});
  }
  if (tasks_[task].left == 0)
    end(task);
  else
    running_.push_back(task);
}

void Plan::end(size_t task) {
  for (size_t next : tasks_[task].after) {
    if (--tasks_[next].before == 0) ready_.push_back(next);
  }
}

// As on the device: who came first gets what it asks for. Returns the time until one of them ends.
uint64_t Plan::share_out() {
  uint32_t rest = kWhole;
  uint64_t next = ~uint64_t{0};
  for (size_t one : running_) {
    Task& task = tasks_[one];
    task.share = std::min(task.fill, rest);
    rest -= task.share;
    if (task.share == 0) continue;
    const uint64_t parts = task.left / task.share * task.fill;
    const uint64_t odd = (task.left % task.share * task.fill + task.share - 1) / task.share;
    next = std::min(next, parts + odd);
  }
  return next;
}

Work Plan::run(std::vector<Exec::Step>* steps) {
  Work all{0, 0, 0};
  double filled = 0;
  for (size_t i = 0; i < tasks_.size(); ++i) {
    if (tasks_[i].before == 0) ready_.push_back(i);
    all.kernels += tasks_[i].node->work.kernels;
    filled += static_cast<double>(tasks_[i].left) * tasks_[i].fill;
  }
  for (;;) {
    for (size_t i = 0; i < ready_.size(); ++i) begin(ready_[i], steps);
    ready_.clear();
    if (running_.empty()) break;
    const uint64_t span = share_out();
    now_ += span;
    const std::vector<size_t> ran = std::move(running_);
    running_.clear();
    for (size_t one : ran) {
      Task& task = tasks_[one];
      const uint64_t had =
          span / task.fill * task.share + span % task.fill * task.share / task.fill;
      task.left -= std::min(task.left, had);
      if (task.left == 0)
        end(one);
      else
        running_.push_back(one);
    }
  }
  all.ns = std::min(now_, kMostWorkNs);
  if (now_ != 0) all.fill = static_cast<uint32_t>(filled / static_cast<double>(now_));
  all.fill = std::clamp<uint32_t>(all.fill, 1, kWhole);
  return all;
}

}  // namespace

Work plan_graph(const Graph& graph, std::vector<Exec::Step>* steps) {
  steps->clear();
  return Plan(graph).run(steps);
}

}  // namespace softmig::sim
