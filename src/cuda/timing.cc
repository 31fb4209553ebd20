#include "cuda/timing.h"

#include <algorithm>

#include "base/mix.h"
#include "sys/clock.h"
#include "sys/memory.h"
#include "sys/self.h"

SM_DRIVER(cuCtxGetCurrent);
SM_DRIVER(cuCtxGetDevice);
SM_DRIVER(cuCtxPopCurrent_v2);
SM_DRIVER(cuCtxPushCurrent_v2);
SM_DRIVER(cuDeviceGetAttribute);
SM_DRIVER(cuEventCreate);
SM_DRIVER(cuEventElapsedTime);
SM_DRIVER(cuEventQuery);
SM_DRIVER(cuEventRecord);
SM_DRIVER(cuStreamGetCtx);
SM_DRIVER(cuThreadExchangeStreamCaptureMode);

namespace softmig::cuda {
namespace {

using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

constexpr uint32_t kLines = 4096, kContexts = 128;
constexpr uint64_t kReanchorNs = 1'000'000'000;
// Two clocks drift apart by less than this in that time.
constexpr uint64_t kDriftNs = 20'000;
constexpr uint32_t kEmptyBrackets = 8;
constexpr uint32_t kMostFailures = 16;

constinit sys::Mutex g_lock;  // of all below
constinit Context g_contexts[kContexts];
constinit Line* g_lines = nullptr;
constinit Line* g_free_lines = nullptr;
constinit uint32_t g_lines_made = 0;
constinit Table g_table;  // key of a line -> its address
constinit uint64_t g_salt = 0;
constinit uint32_t g_generation = 0;
// Changes when any line ends: what threads remember of lines is then void.
constinit std::atomic<uint32_t> g_epoch{1};

struct Remembered {
  uint64_t key;
  Line* line;
  uint32_t epoch;
};
constexpr uint32_t kRemembered = 4;
constinit thread_local Remembered t_lines[kRemembered] = {};

class Guard {
 public:
  explicit Guard(sys::Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Guard() { mutex_.unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  sys::Mutex& mutex_;
};

// Makes a context current while it lives, if it is not.
class Current {
 public:
  explicit Current(CUcontext context) {
    CUcontext now = nullptr;
    if (next_cuCtxGetCurrent(&now) == CUDA_SUCCESS && now == context) {
      good_ = true;
      return;
    }
    pushed_ = good_ = next_cuCtxPushCurrent_v2(context) == CUDA_SUCCESS;
  }
  ~Current() {
    CUcontext popped = nullptr;
    if (pushed_) next_cuCtxPopCurrent_v2(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  explicit operator bool() const { return good_; }

 private:
  bool pushed_ = false, good_ = false;
};

// A fork child owns neither events nor locks of its parent.
void check_generation() {
  const uint32_t now = slice().generation();
  if (g_generation == now) return;
  g_generation = now;
  for (Context& context : g_contexts) {
    context.handle = nullptr;
    context.lock.reset();
    context.lines = nullptr;
  }
  g_free_lines = nullptr;
  g_lines_made = 0;
  g_epoch.fetch_add(1, memory_order_release);
}

CUdevice ordinal_of(CUcontext handle) {
  Record record;
  if (tables.contexts.find(reinterpret_cast<uint64_t>(handle), &record)) {
    return static_cast<CUdevice>(record.detail);
  }
  const Current current(handle);
  CUdevice ordinal = -1;
  return current && next_cuCtxGetDevice(&ordinal) == CUDA_SUCCESS ? ordinal : -1;
}

bool is_mps_client(CUdevice ordinal) {
  int value = 0;
  return next_cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, ordinal) ==
             CUDA_SUCCESS &&
         value != 0;
}

Context* find_context(CUcontext handle) {
  for (Context& context : g_contexts) {
    if (context.handle == handle) return &context;
  }
  return nullptr;
}

Context* make_context(CUcontext handle, int device, bool is_mps) {
  Context* context = find_context(handle);
  if (context != nullptr) return context;
  context = find_context(nullptr);
  if (context == nullptr) return nullptr;
  context->device = device;
  context->is_mps = is_mps;
  context->salt = ++g_salt;
  context->unknown.store(0, memory_order_relaxed);
  context->backlog_ns.store(0, memory_order_relaxed);
  context->drained_ns.store(0, memory_order_relaxed);
  context->gap_ns.store(0, memory_order_relaxed);
  context->overlap.store(Context::kNoOverlap, memory_order_relaxed);
  context->lines = nullptr;
  context->spare.context = context;
  context->spare.failures.store(kMostFailures, memory_order_relaxed);
  context->event_count = context->events_made = 0;
  context->anchor = nullptr;
  context->pair_ns = 0;
  context->empties = 0;
  context->handle = handle;
  return context;
}

Line* take_line() {
  if (g_free_lines != nullptr) {
    Line* line = g_free_lines;
    g_free_lines = line->next;
    return line;
  }
  if (g_lines == nullptr) g_lines = static_cast<Line*>(sys::map_pages(kLines * sizeof(Line)));
  if (g_lines == nullptr || g_lines_made == kLines) return nullptr;
  return &g_lines[g_lines_made++];
}

void clear(Line& line) {
  line.launches.store(0, memory_order_relaxed);
  line.done_ns.store(0, memory_order_relaxed);
  line.late_at_ns.store(0, memory_order_relaxed);
  line.failures.store(0, memory_order_relaxed);
  line.is_open = false;
  line.target_ns = kBracketNs;
  line.slack_ns = 0;
  line.closed_begin = line.closed_end = 0;
  line.held.store(0, memory_order_release);
}

Line* make_line(uint64_t key, CUstream handle, CUcontext context_handle) {
  const CUdevice ordinal = ordinal_of(context_handle);
  const int device = device_of(ordinal);
  if (device < 0 || device == job::kUncounted) return nullptr;
  const bool is_mps = is_mps_client(ordinal);
  Guard guard(g_lock);
  check_generation();
  Record record;
  if (g_table.find(key, &record)) return reinterpret_cast<Line*>(record.detail);
  Context* context = make_context(context_handle, device, is_mps);
  if (context == nullptr) return nullptr;
  Line* line = take_line();
  if (line == nullptr) return &context->spare;
  clear(*line);
  line->context = context;
  line->handle = handle;
  line->key = key;
  Guard in_context(context->lock);
  line->next = context->lines;
  context->lines = line;
  g_table.insert(key, {0, reinterpret_cast<uint64_t>(line), 0, static_cast<int16_t>(device)});
  return line;
}

bool is_special(uintptr_t stream) { return stream <= CU_STREAM_PER_THREAD_VALUE; }

// Only what is the thread's own tells its stream from another thread's.
uint64_t thread_token() { return reinterpret_cast<uint64_t>(&t_lines); }

void put_event(Context& context, CUevent event) {
  if (event != nullptr && context.event_count < Context::kEvents) {
    context.events[context.event_count++] = event;
  }
}

// Under no lock, since the driver may take its time to make one.
CUevent take_event(Context& context) {
  if (!context.lock.try_lock()) return nullptr;
  CUevent event = nullptr;
  const bool may_make = context.events_made < Context::kEvents;
  if (context.event_count > 0) {
    event = context.events[--context.event_count];
  } else if (may_make) {
    context.events_made++;
  }
  context.lock.unlock();
  if (event != nullptr || !may_make) return event;
  const Current current(context.handle);
  if (!current || next_cuEventCreate(&event, CU_EVENT_DEFAULT) != CUDA_SUCCESS) return nullptr;
  return event;
}

void return_events(Context& context, CUevent a, CUevent b) {
  if (!context.lock.try_lock()) return;  // lost until the context ends
  put_event(context, a);
  put_event(context, b);
  context.lock.unlock();
}

bool record(Line& line, CUevent event) {
  if (next_cuEventRecord(event, line.handle) == CUDA_SUCCESS) return true;
  line.failures.fetch_add(1, memory_order_relaxed);
  return false;
}

bool elapsed(CUevent from, CUevent to, int64_t* ns) {
  float ms = 0;
  if (next_cuEventElapsedTime(&ms, from, to) != CUDA_SUCCESS) return false;
  *ns = static_cast<int64_t>(static_cast<double>(ms) * 1e6);
  return true;
}

// The host's clock at `event`, which was seen to be done at `now`. The true offset of the two
// clocks is the least that is ever seen.
bool host_time(Context& context, CUevent event, uint64_t now, uint64_t* ns) {
  if (context.anchor == nullptr) {
    *ns = now;
    return true;
  }
  int64_t since = 0;
  if (!elapsed(context.anchor, event, &since)) return false;
  const uint64_t at = context.anchor_ns + static_cast<uint64_t>(since);
  if (at > now) context.anchor_ns -= at - now;
  *ns = std::min(at, now);
  return true;
}

// An event of the bracket becomes the new anchor, so that spans stay short: they come as floats.
bool anchor_with(Context& context, CUevent event, uint64_t at, uint64_t now) {
  if (context.anchor != nullptr && now - context.anchored_ns < kReanchorNs) return false;
  put_event(context, context.anchor);
  context.anchor_ns = context.anchor == nullptr ? at : at + kDriftNs;
  context.anchor = event;
  context.anchored_ns = now;
  return true;
}

void note_oldest(Line& line) {
  const uint64_t late = line.closed_begin == line.closed_end
                            ? 0
                            : line.closed[line.closed_begin % Line::kClosed].late_at_ns;
  line.late_at_ns.store(late, memory_order_relaxed);
}

// Takes the oldest bracket of the line out if it is done. False: it is not.
bool collect_one(Context& context, Line& line) {
  const Bracket bracket = line.closed[line.closed_begin % Line::kClosed];
  const CUresult result = next_cuEventQuery(bracket.end);
  if (result == CUDA_ERROR_NOT_READY) return false;
  const uint64_t now = sys::monotonic_ns();
  line.closed_begin++;
  context.backlog_ns.fetch_sub(bracket.charged, memory_order_relaxed);
  note_oldest(line);
  context.collected_ns.store(now, memory_order_relaxed);
  int64_t took = 0;
  uint64_t end = 0;
  if (result != CUDA_SUCCESS || !elapsed(bracket.begin, bracket.end, &took) || took < 0 ||
      !host_time(context, bracket.end, now, &end)) {
    give_up(line, bracket);
    return true;
  }
  if (bracket.launches == 0) {
    // An empty one: what the events themselves take.
    const auto pair = static_cast<uint64_t>(took);
    context.pair_ns = context.pair_ns == 0 ? pair : std::min(context.pair_ns, pair);
  } else {
    settle(line, bracket, end - static_cast<uint64_t>(took), end);
  }
  if (end > context.drained_ns.load(memory_order_relaxed)) {
    context.drained_ns.store(end, memory_order_relaxed);
  }
  put_event(context, bracket.begin);
  if (!anchor_with(context, bracket.end, end, now)) put_event(context, bracket.end);
  return true;
}

bool push(Line& line, const Bracket& bracket) {
  Context& context = *line.context;
  if (!context.lock.try_lock()) return false;
  const bool fits = line.closed_end - line.closed_begin < Line::kClosed;
  if (fits) {
    line.closed[line.closed_end++ % Line::kClosed] = bracket;
    note_oldest(line);
  }
  context.lock.unlock();
  return fits;
}

void unlink(Line& line) {
  Record record;
  g_table.take(line.key, &record);
  line.next = g_free_lines;
  g_free_lines = &line;
}

// With the context's lock held.
void drop_lines(Context& context) {
  while (context.lines != nullptr) {
    Line* line = context.lines;
    context.lines = line->next;
    line->is_open = false;
    unlink(*line);
  }
  context.handle = nullptr;
  context.salt = 0;
  g_epoch.fetch_add(1, memory_order_release);
}

}  // namespace

RelaxedCapture::RelaxedCapture() { next_cuThreadExchangeStreamCaptureMode(&mode_); }
RelaxedCapture::~RelaxedCapture() { next_cuThreadExchangeStreamCaptureMode(&mode_); }

Line* line_of(CUstream stream, bool per_thread) {
  auto value = reinterpret_cast<uintptr_t>(stream);
  if (value == 0) value = per_thread ? CU_STREAM_PER_THREAD_VALUE : CU_STREAM_LEGACY_VALUE;
  CUcontext context = nullptr;
  uint64_t key = base::mix(value, 1);
  if (is_special(value)) {
    if (next_cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr) return nullptr;
    key = base::mix(key, reinterpret_cast<uint64_t>(context));
    if (value == CU_STREAM_PER_THREAD_VALUE) key = base::mix(key, thread_token());
  }
  const uint32_t epoch = g_epoch.load(memory_order_acquire) + slice().generation();
  Remembered& known = t_lines[key >> 32 & (kRemembered - 1)];
  if (known.key == key && known.epoch == epoch) return known.line;
  if (context == nullptr && next_cuStreamGetCtx(stream, &context) != CUDA_SUCCESS) return nullptr;
  Line* line = make_line(key, reinterpret_cast<CUstream>(value), context);
  if (line != nullptr) known = {key, line, epoch};
  return line;
}

void forget_stream(CUstream stream) {
  if (is_special(reinterpret_cast<uintptr_t>(stream))) return;
  const uint64_t key = base::mix(reinterpret_cast<uint64_t>(stream), 1);
  Record record;
  if (!g_table.find(key, &record)) return;
  Guard guard(g_lock);
  if (!g_table.find(key, &record)) return;
  auto* line = reinterpret_cast<Line*>(record.detail);
  Context& context = *line->context;
  Guard in_context(context.lock);
  // The events outlive the stream, and what they stand for still is charged.
  for (; line->closed_begin != line->closed_end; line->closed_begin++) {
    const Bracket& bracket = line->closed[line->closed_begin % Line::kClosed];
    context.backlog_ns.fetch_sub(bracket.charged, memory_order_relaxed);
    give_up(*line, bracket);
    put_event(context, bracket.begin);
    put_event(context, bracket.end);
  }
  while (!line->grab()) sys::yield();
  if (line->is_open) {
    context.backlog_ns.fetch_sub(line->open.charged, memory_order_relaxed);
    put_event(context, line->open.begin);
  }
  line->is_open = false;
  for (Line** at = &context.lines; *at != nullptr; at = &(*at)->next) {
    if (*at != line) continue;
    *at = line->next;
    break;
  }
  unlink(*line);
  line->release();
  g_epoch.fetch_add(1, memory_order_release);
}

bool pause_timing(CUcontext handle) {
  g_lock.lock();
  check_generation();
  Context* context = find_context(handle);
  g_lock.unlock();
  if (context == nullptr) return false;
  context->lock.lock();
  if (context->handle == handle) return true;
  context->lock.unlock();
  return false;
}

void resume_timing(CUcontext handle, bool alive) {
  // Nobody else ends a context that is paused, so it is still there.
  Context* context = find_context(handle);
  if (context == nullptr) return;
  if (alive) {
    context->lock.unlock();
    return;
  }
  // The order of the two locks elsewhere is the other one.
  context->lock.unlock();
  end_timing(handle);
}

void end_timing(CUcontext handle) {
  Guard guard(g_lock);
  check_generation();
  Context* context = find_context(handle);
  if (context == nullptr) return;
  Guard in_context(context->lock);
  drop_lines(*context);
}

bool begin_bracket(Line& line, uint64_t now, Bracket* bracket) {
  if (line.failures.load(memory_order_relaxed) >= kMostFailures) return false;
  Context& context = *line.context;
  *bracket = {};
  bracket->begun_ns = bracket->latest_ns = now;
  if (context.empties < kEmptyBrackets && line.closed_end - line.closed_begin < 2) {
    context.empties++;
    Bracket empty = *bracket;
    empty.begin = take_event(context);
    if (empty.begin != nullptr && record(line, empty.begin)) end_bracket(line, empty);
  }
  bracket->begin = take_event(context);
  if (bracket->begin == nullptr) return false;
  if (record(line, bracket->begin)) return true;
  return_events(context, bracket->begin, nullptr);
  return false;
}

bool end_bracket(Line& line, const Bracket& bracket) {
  Bracket closed = bracket;
  closed.end = take_event(*line.context);
  if (closed.end != nullptr && record(line, closed.end) && push(line, closed)) return true;
  line.context->backlog_ns.fetch_sub(bracket.charged, memory_order_relaxed);
  return_events(*line.context, closed.begin, closed.end);
  return false;
}

void enter_bracket(Line& line, Bracket& bracket, uint64_t charged, uint64_t alone) {
  bracket.charged += charged;
  bracket.alone += alone;
  bracket.launches++;
  line.context->backlog_ns.fetch_add(charged, memory_order_relaxed);
}

void drop_bracket(Line& line, const Bracket& bracket) {
  line.context->backlog_ns.fetch_sub(bracket.charged, memory_order_relaxed);
  return_events(*line.context, bracket.begin, bracket.end);
}

void collect(Context& context) {
  if (!context.lock.try_lock()) return;
  if (context.handle != nullptr) {
    const RelaxedCapture relaxed;
    for (Line* line = context.lines; line != nullptr; line = line->next) {
      while (line->closed_begin != line->closed_end && collect_one(context, *line)) {
      }
    }
  }
  context.lock.unlock();
}

uint32_t open_lines(Context& context, Line** lines, uint32_t room) {
  if (!context.lock.try_lock()) return 0;
  uint32_t count = 0;
  for (Line* line = context.lines; line != nullptr && count < room; line = line->next) {
    if (line->is_open) lines[count++] = line;
  }
  context.lock.unlock();
  return count;
}

uint64_t busy_until(const Context& context) {
  const uint64_t backlog = context.backlog_ns.load(memory_order_relaxed);
  return backlog == 0 ? 0 : context.drained_ns.load(memory_order_relaxed) + backlog;
}

bool is_waiting_since(Context& context, uint64_t ns) {
  if (!context.lock.try_lock()) return false;
  bool waiting = false;
  for (Line* line = context.lines; line != nullptr && !waiting; line = line->next) {
    waiting = line->closed_begin != line->closed_end &&
              line->closed[line->closed_begin % Line::kClosed].begun_ns <= ns;
  }
  context.lock.unlock();
  return waiting;
}

}  // namespace softmig::cuda
