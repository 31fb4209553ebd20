// cuLaunchHostFunc: functions of the program that run when their stream reaches them, on a thread
// that exists from the first of them on.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <set>
#include <thread>

#include "driver/graph.h"
#include "driver/objects.h"
#include "state/activity.h"

namespace softmig::sim {
namespace {

struct Task {
  uint64_t number;
  Ticket after;
  CUhostFn fn;
  void* data;
};

class Worker {
 public:
  uint64_t add(CUhostFn fn, void* data, const Ticket& after) {
    const std::lock_guard lock(mutex_);
    if (!started_) {
      std::thread([this] { run(); }).detach();
      started_ = true;
    }
    const uint64_t number = ++last_;
    tasks_.push_back({number, after, fn, data});
    undone_.insert(number);
    changed_.notify_all();
    return number;
  }

  // Earlier tasks of the same stream ran before it: one thread runs them all, of those whose time
  // has come the oldest first.
  bool is_done(uint64_t number) {
    const std::lock_guard lock(mutex_);
    return undone_.count(number) == 0;
  }

  void wait(uint64_t number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return undone_.count(number) == 0; });
  }

  void wait_for_all() {
    std::unique_lock lock(mutex_);
    const uint64_t last = last_;
    changed_.wait(lock, [&] { return undone_.empty() || *undone_.begin() > last; });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (tasks_.empty()) {
        changed_.wait(lock);
        continue;
      }
      look();
      const auto ready = std::find_if(tasks_.begin(), tasks_.end(), [](const Task& task) {
        return softmig::sim::is_done(task.after);
      });
      if (ready == tasks_.end()) {
        const uint64_t until = next_look(), now = monotonic_ns();
        changed_.wait_for(lock, std::chrono::nanoseconds(until > now ? until - now : 0));
        continue;
      }
      const Task task = *ready;
      tasks_.erase(ready);
      lock.unlock();
      task.fn(task.data);
      lock.lock();
      undone_.erase(task.number);
      changed_.notify_all();
    }
  }

  // When the first of them can be done, seen from the oldest of each lane.
  uint64_t next_look() const {
    uint64_t until = ~uint64_t{0};
    std::set<const Lane*> seen;
    for (const Task& task : tasks_) {
      if (seen.insert(task.after.lane).second) until = std::min(until, look_ahead({task.after}));
    }
    return until;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  uint64_t last_ = 0;
  std::deque<Task> tasks_;  // in order of arrival
  std::set<uint64_t> undone_;
};

Worker& worker() {
  static auto* const one = new Worker();
  return *one;
}

CUresult launch(Call& call, CUstream handle, CUhostFn fn, void* data, bool per_thread) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream_with_room(call, handle, per_thread, &code);
  if (stream == nullptr) return code;
  if (fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      Node* node = add_node(stream->capture->graph, CU_GRAPH_NODE_TYPE_HOST);
      node->host_fn = fn;
      node->host_data = data;
      append_captured(stream, node);
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  stream->host_task = add_host_task(fn, data, mark(stream));
  return CUDA_SUCCESS;
}

}  // namespace

uint64_t add_host_task(CUhostFn fn, void* data, const Ticket& after) {
  return worker().add(fn, data, after);
}

bool is_host_task_done(uint64_t task) { return task == 0 || worker().is_done(task); }

void wait_for_host_task(Call& call, uint64_t task) {
  if (is_host_task_done(task)) return;
  call.lock().unlock();
  worker().wait(task);
  call.lock().lock();
}

void wait_for_host_tasks(Call& call) {
  call.lock().unlock();
  worker().wait_for_all();
  call.lock().lock();
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn fn, void* data) {
  Call call(__func__);
  return call.failed() ? call.code() : launch(call, stream, fn, data, false);
}

CUresult cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn fn, void* data) {
  Call call(__func__);
  return call.failed() ? call.code() : launch(call, stream, fn, data, true);
}
