#include "state/schedule.h"

#include <algorithm>
#include <tuple>

#include "state/activity.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};
// Kernels of this length end when the program lets them go: looked at this often.
constexpr uint64_t kOpenEndNs = uint64_t{1} << 45, kOpenLookNs = 200'000;
constexpr int kDeepest = 8;  // lanes that wait for lanes that wait: how far they are followed

// x * numerator / denominator without overflow on the way; both are small.
uint64_t scale(uint64_t x, uint64_t numerator, uint64_t denominator) {
  return x / denominator * numerator + x % denominator * numerator / denominator;
}

uint64_t scale_up(uint64_t x, uint64_t numerator, uint64_t denominator) {
  return x / denominator * numerator +
         (x % denominator * numerator + denominator - 1) / denominator;
}

const Head& head_of(const LaneRow& lane) {
  return lane.heads[lane.which.load(std::memory_order_relaxed) & 1];
}

void set_head(LaneRow* lane, const Head& head) {
  const uint32_t other = ~lane->which.load(std::memory_order_relaxed) & 1;
  lane->heads[other] = head;
  lane->which.store(other, std::memory_order_release);
}

uint64_t first_undone(const LaneRow& lane) { return lane.done.load(std::memory_order_acquire) + 1; }

bool is_empty(const LaneRow& lane) {
  return lane.done.load(std::memory_order_acquire) >= lane.tail.load(std::memory_order_acquire);
}

bool has_begun(const LaneRow& lane) { return head_of(lane).number == first_undone(lane); }

bool is_running(const LaneRow& lane) {
  return !is_empty(lane) && has_begun(lane) && head_of(lane).share != 0;
}

uint64_t left_at(const Head& head, uint32_t fill, uint64_t now) {
  if (head.share == 0 || now <= head.since_ns) return head.left;
  const uint64_t progress = scale(now - head.since_ns, head.share, fill);
  return head.left > progress ? head.left - progress : 0;
}

uint64_t due(const Head& head, uint32_t fill) {
  return head.since_ns + scale_up(head.left, fill, head.share);
}

}  // namespace

// --- what there is to run

ContextRow* Schedule::resident(const Engine& engine) const {
  const uint32_t which = engine.resident;
  return which == 0 || which > kMaxContexts ? nullptr : &file_->contexts[which - 1];
}

bool Schedule::has_kernel_or_mark(const LaneRow& lane) const {
  return !is_empty(lane) && !is_idle(op_at(lane, first_undone(lane)).kind);
}

bool Schedule::wants(const ContextRow& context) const {
  const uint32_t count = context.lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    if (has_kernel_or_mark(file_->lanes[context.lanes[i]])) return true;
  }
  return false;
}

bool Schedule::is_done(uint32_t lane, uint64_t number) const {
  return file_->lanes[lane].done.load(std::memory_order_acquire) >= number;
}

// Numbers of a row never repeat, so a lane that another process has by now is past the number.
bool Schedule::is_satisfied(const LaneRow& lane, const Op& wait) const {
  const LaneRow& other = file_->lanes[wait.fill];
  const bool same = other.process == lane.process && other.generation == lane.generation &&
                    other.state.load(std::memory_order_acquire) == RowState::kLive;
  return !same || is_done(wait.fill, wait.work);
}

// The first context that wants the device in the order of turns, as 1 + index; 0: none but `after`.
uint32_t Schedule::next_that_wants(uint32_t device, uint32_t after) const {
  const uint32_t end = file_->contexts_end.load(std::memory_order_acquire);
  for (uint32_t step = 0; step < end; ++step) {
    const uint32_t i = (after + step) % end;
    const ContextRow& row = file_->contexts[i];
    if (i + 1 == after || row.device != device) continue;
    if (row.state.load(std::memory_order_acquire) == RowState::kLive && wants(row)) return i + 1;
  }
  return 0;
}

bool Schedule::is_contended(uint32_t device) const {
  return file_->devices[device].engine.slice_end != 0;
}

// --- moving on

void Schedule::advance(uint64_t now) {
  for (;;) {
    uint32_t first = 0;
    for (uint32_t d = 1; d < file_->device_count; ++d) {
      if (file_->devices[d].engine.next_ns < file_->devices[first].engine.next_ns) first = d;
    }
    const uint64_t next = file_->devices[first].engine.next_ns;
    if (next > now) return;
    settle_all(first, next);
  }
}

// What ends on one device may be what a lane of another waits for.
void Schedule::settle_all(uint32_t device, uint64_t now) {
  if (settle(device, now)) settle_waiting(now);
}

void Schedule::settle_waiting(uint64_t now) {
  for (bool again = true; again;) {
    again = false;
    for (uint32_t d = 0; d < file_->device_count; ++d) {
      if (file_->devices[d].engine.waits_abroad != 0) again |= settle(d, now);
    }
  }
}

// Does all that is to be done at that time. True if any operation ended.
bool Schedule::settle(uint32_t device, uint64_t now) {
  Engine& engine = file_->devices[device].engine;
  bool any = false, again = true;
  while (again) {
    again = finish_kernels(engine, now);
    again |= finish_waits(device, now);
    choose(device, now);
    again |= run(&engine, now);
    any |= again;
  }
  note_busy(&engine, now);
  plan(device, now);
  return any;
}

void Schedule::complete(LaneRow* lane, uint64_t now) {
  const uint64_t number = first_undone(*lane);
  Op& op = lane->ops[number % kLaneOps];
  op.end_ns = now;
  if (op.kind == OpKind::kKernel) {
    const uint32_t device = file_->contexts[lane->context].device;
    Usage& usage = file_->processes[lane->process].usage[device];
    usage.work_ns += op.work;
    usage.kernels += op.kernels;
  }
  lane->done.store(number, std::memory_order_release);
}

bool Schedule::finish_kernels(const Engine& engine, uint64_t now) {
  const ContextRow* context = resident(engine);
  if (context == nullptr) return false;
  bool any = false;
  const uint32_t count = context->lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    LaneRow& lane = file_->lanes[context->lanes[i]];
    if (!is_running(lane) || due(head_of(lane), op_at(lane, first_undone(lane)).fill) > now)
      continue;
    complete(&lane, now);
    any = true;
  }
  return any;
}

bool Schedule::finish_waits(uint32_t device, uint64_t now) {
  bool any = false;
  uint32_t abroad = 0;
  const uint32_t end = file_->contexts_end.load(std::memory_order_acquire);
  for (uint32_t c = 0; c < end; ++c) {
    const ContextRow& context = file_->contexts[c];
    if (context.device != device ||
        context.state.load(std::memory_order_acquire) != RowState::kLive)
      continue;
    const uint32_t count = context.lane_count.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < count; ++i) {
      LaneRow& lane = file_->lanes[context.lanes[i]];
      while (!is_empty(lane) && is_idle(op_at(lane, first_undone(lane)).kind)) {
        const Op& wait = op_at(lane, first_undone(lane));
        if (wait.kind == OpKind::kHold && wait.work == 0) break;
        if (wait.kind == OpKind::kWait && !is_satisfied(lane, wait)) {
          abroad += file_->contexts[file_->lanes[wait.fill].context].device != device;
          break;
        }
        complete(&lane, now);
        any = true;
      }
    }
  }
  file_->devices[device].engine.waits_abroad = abroad;
  return any;
}

// --- turns

void Schedule::choose(uint32_t device, uint64_t now) {
  Engine& engine = file_->devices[device].engine;
  const uint32_t other = next_that_wants(device, engine.resident);
  if (other == 0) {
    engine.slice_end = 0;
    return;
  }
  const ContextRow* mine = resident(engine);
  if (mine != nullptr && wants(*mine)) {
    if (engine.slice_end == 0) {
      const uint64_t past = now > engine.slice_begin ? now - engine.slice_begin : 0;
      engine.slice_end = engine.slice_begin + (past / file_->slice_ns + 1) * file_->slice_ns;
    }
    if (now < engine.slice_end) return;
  }
  switch_to(&engine, other, now);
  engine.slice_end = next_that_wants(device, other) != 0 ? engine.slice_begin + file_->slice_ns : 0;
}

void Schedule::switch_to(Engine* engine, uint32_t context, uint64_t now) {
  const bool first = engine->resident == 0;
  pause(engine, now);
  engine->resident = context;
  engine->ready_ns = first ? now : now + file_->switch_ns;
  engine->cold = !first;
  engine->switches += !first;
  engine->refill_ns = 0;
  if (is_cold_start(*engine, *resident(*engine), now)) {
    engine->cold = 0;
    engine->ready_ns += file_->refill_ns;
  }
  engine->slice_begin = engine->ready_ns;
}

// Takes the device from the kernels that run.
void Schedule::pause(Engine* engine, uint64_t now) {
  account(engine, now);
  const ContextRow* context = resident(*engine);
  if (context == nullptr) return;
  const uint32_t count = context->lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    LaneRow& lane = file_->lanes[context->lanes[i]];
    if (!is_running(lane)) continue;
    Head head = head_of(lane);
    head.left = left_at(head, op_at(lane, head.number).fill, now);
    head.share = 0;
    set_head(&lane, head);
  }
}

// Whether a kernel is about to begin for which the context must be refilled.
bool Schedule::is_cold_start(const Engine& engine, const ContextRow& context, uint64_t now) const {
  if (engine.cold == 0) return false;
  if (engine.refill_ns != 0 && engine.refill_ns <= now) return true;
  const uint32_t count = context.lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    const LaneRow& lane = file_->lanes[context.lanes[i]];
    if (has_kernel_or_mark(lane) && !has_begun(lane)) return true;
  }
  return false;
}

// Lets the resident context run. True if there is more to be done at this time.
bool Schedule::run(Engine* engine, uint64_t now) {
  const ContextRow* context = resident(*engine);
  if (context == nullptr || now < engine->ready_ns) return false;
  if (is_cold_start(*engine, *context, now)) {
    pause(engine, now);
    engine->cold = 0;
    engine->ready_ns = now + file_->refill_ns;
    return file_->refill_ns == 0;
  }
  bool any = false;
  const uint32_t count = context->lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    LaneRow& lane = file_->lanes[context->lanes[i]];
    if (is_empty(lane) || op_at(lane, first_undone(lane)).kind != OpKind::kMark) continue;
    complete(&lane, now);
    any = true;
  }
  return any || share_out(*context, now);
}

// Gives the device to the kernels at the heads of the lanes. True if one of them is done at once.
bool Schedule::share_out(const ContextRow& context, uint64_t now) {
  LaneRow* lanes[kLanesPerContext];
  size_t count = 0;
  const uint32_t all = context.lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < all; ++i) {
    LaneRow& lane = file_->lanes[context.lanes[i]];
    if (!has_kernel_or_mark(lane)) continue;
    const uint64_t number = first_undone(lane);
    if (!has_begun(lane)) set_head(&lane, {number, now, now, 0, op_at(lane, number).work});
    lanes[count++] = &lane;
  }
  std::sort(lanes, lanes + count, [this](const LaneRow* a, const LaneRow* b) {
    const int8_t pa = op_at(*a, first_undone(*a)).priority;
    const int8_t pb = op_at(*b, first_undone(*b)).priority;
    const uint64_t ta = head_of(*a).begun_ns, tb = head_of(*b).begun_ns;
    return std::tie(pa, ta, a) < std::tie(pb, tb, b);
  });
  uint32_t rest = kWhole;
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    Head head = head_of(*lanes[i]);
    const uint32_t fill = op_at(*lanes[i], head.number).fill;
    const uint32_t share = std::min(fill, rest);
    rest -= share;
    if (share != head.share) {
      head.left = left_at(head, fill, now);
      head.since_ns = now;
      head.share = share;
      set_head(lanes[i], head);
    }
    any |= share != 0 && due(head, fill) <= now;
  }
  return any;
}

// --- figures

void Schedule::account(Engine* engine, uint64_t now) {
  const ContextRow* context = resident(*engine);
  const uint64_t since = engine->busy_since;
  engine->busy_since = 0;
  if (context == nullptr || since == 0 || since >= now) return;
  Usage& usage = file_->processes[context->process].usage[context->device];
  engine->busy_ns += now - since;
  usage.busy_ns += now - since;
  add_activity(&usage.activity, since, now);
}

void Schedule::note_busy(Engine* engine, uint64_t now) {
  const ContextRow* context = resident(*engine);
  bool running = false;
  const uint32_t count =
      context != nullptr ? context->lane_count.load(std::memory_order_acquire) : 0;
  for (uint32_t i = 0; i < count; ++i) running |= is_running(file_->lanes[context->lanes[i]]);
  if (!running)
    account(engine, now);
  else if (engine->busy_since == 0)
    engine->busy_since = now;
}

void Schedule::book(uint64_t now) {
  for (uint32_t d = 0; d < file_->device_count; ++d) {
    Engine& engine = file_->devices[d].engine;
    const bool running = engine.busy_since != 0;
    account(&engine, now);
    if (running) engine.busy_since = now;
  }
}

// --- what comes next

void Schedule::plan(uint32_t device, uint64_t now) {
  Engine& engine = file_->devices[device].engine;
  engine.next_ns = engine.slice_end != 0 ? engine.slice_end : kNever;
  engine.refill_ns = 0;
  const ContextRow* context = resident(engine);
  if (context == nullptr) return;
  if (engine.ready_ns > now) {
    if (wants(*context)) engine.next_ns = std::min(engine.next_ns, engine.ready_ns);
    return;
  }
  const uint32_t count = context->lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    const LaneRow& lane = file_->lanes[context->lanes[i]];
    if (!is_running(lane)) continue;
    const Head& head = head_of(lane);
    const Op& op = op_at(lane, head.number);
    engine.next_ns = std::min(engine.next_ns, due(head, op.fill));
    if (engine.cold == 0 || op.kernels < 2) continue;
    const uint64_t each = std::max<uint64_t>(1, op.work / op.kernels), had = op.work - head.left;
    const uint64_t next = (had + each - 1) / each;
    if (next >= op.kernels) continue;
    const uint64_t at = head.since_ns + scale_up(next * each - had, op.fill, head.share);
    if (engine.refill_ns == 0 || at < engine.refill_ns) engine.refill_ns = at;
  }
  if (engine.refill_ns != 0) engine.next_ns = std::min(engine.next_ns, engine.refill_ns);
}

uint64_t Schedule::earliest(uint32_t lane, uint64_t number, uint64_t now) const {
  return earliest_of(lane, number, now, 0);
}

// Work of a lane up to an operation, or up to the first wait, were it alone on the device.
uint64_t Schedule::work_until(const LaneRow& lane, uint64_t number, uint64_t now) const {
  uint64_t sum = 0;
  for (uint64_t n = first_undone(lane); n <= number; ++n) {
    const Op& op = op_at(lane, n);
    if (is_idle(op.kind)) break;
    if (op.kind != OpKind::kKernel) continue;
    const bool begun = head_of(lane).number == n;
    sum += begun ? left_at(head_of(lane), op.fill, now) : op.work;
  }
  return sum;
}

// When the context that has the device gives it away at the earliest.
uint64_t Schedule::earliest_turn(const Engine& engine, uint64_t now) const {
  uint64_t drained = std::max(now, engine.ready_ns);
  const uint64_t begin = drained;
  const ContextRow* context = resident(engine);
  const uint32_t count =
      context != nullptr ? context->lane_count.load(std::memory_order_acquire) : 0;
  for (uint32_t i = 0; i < count; ++i) {
    const LaneRow& lane = file_->lanes[context->lanes[i]];
    drained = std::max(drained, begin + work_until(lane, lane.tail.load(), now));
  }
  const uint64_t end = std::max(now, engine.slice_end);  // not 0: the one who asks wants its turn
  return std::min(drained, end) + file_->switch_ns;
}

uint64_t Schedule::earliest_of(uint32_t index, uint64_t number, uint64_t now, int depth) const {
  const LaneRow& lane = file_->lanes[index];
  if (is_done(index, number)) return now;
  const Op& first = op_at(lane, first_undone(lane));
  if (first.kind == OpKind::kHold) return now + kOpenLookNs;
  if (first.kind == OpKind::kWait)
    return depth < kDeepest ? earliest_of(first.fill, first.work, now, depth + 1) : now;
  const Engine& engine = file_->devices[file_->contexts[lane.context].device].engine;
  uint64_t begin = std::max(now, engine.ready_ns);
  if (engine.resident != lane.context + 1) begin = earliest_turn(engine, now);
  const uint64_t work = work_until(lane, number, now);
  return work < kOpenEndNs ? begin + work : now + kOpenLookNs;
}

bool Schedule::is_first(uint32_t lane, uint64_t number) const {
  return !is_empty(file_->lanes[lane]) && first_undone(file_->lanes[lane]) == number;
}

void Schedule::let_go(uint32_t index, uint64_t number, uint64_t now) {
  LaneRow& lane = file_->lanes[index];
  if (is_done(index, number)) return;
  Op& op = lane.ops[number % kLaneOps];
  if (op.kind == OpKind::kHold) {
    op.work = 1;
  } else if (head_of(lane).number == number) {
    Head head = head_of(lane);
    op.work -= left_at(head, op.fill, now);
    head.left = 0;
    head.since_ns = now;
    set_head(&lane, head);
  } else {
    op.work = 0;
  }
  settle_all(file_->contexts[lane.context].device, now);
}

// --- rows

uint64_t Schedule::put(uint32_t index, const Op& op, uint64_t now) {
  LaneRow& lane = file_->lanes[index];
  const bool idle = is_empty(lane);
  const uint64_t number = lane.tail.load(std::memory_order_relaxed) + 1;
  lane.ops[number % kLaneOps] = op;
  lane.tail.store(number, std::memory_order_release);
  if (idle) settle_all(file_->contexts[lane.context].device, now);
  return number;
}

int Schedule::make_context(uint32_t process, uint32_t generation, uint32_t device) {
  const uint32_t end = file_->contexts_end.load(std::memory_order_relaxed);
  uint32_t i = 0;
  while (i < end && file_->contexts[i].state.load() != RowState::kFree) ++i;
  if (i == kMaxContexts) return -1;
  ContextRow& row = file_->contexts[i];
  row.process = process;
  row.generation = generation;
  row.device = device;
  row.lane_count.store(0, std::memory_order_relaxed);
  if (add_lane(i) < 0) return -1;
  row.state.store(RowState::kLive, std::memory_order_release);
  if (i == end) file_->contexts_end.store(end + 1, std::memory_order_release);
  return static_cast<int>(i);
}

int Schedule::add_lane(uint32_t context) {
  ContextRow& row = file_->contexts[context];
  const uint32_t count = row.lane_count.load(std::memory_order_relaxed);
  const uint32_t end = file_->lanes_end.load(std::memory_order_relaxed);
  uint32_t i = 0;
  while (i < end && file_->lanes[i].state.load() != RowState::kFree) ++i;
  if (i == kMaxLanes || count == kLanesPerContext) return -1;
  LaneRow& lane = file_->lanes[i];
  lane.process = row.process;
  lane.generation = row.generation;
  lane.context = context;
  if (i == end) file_->lanes_end.store(end + 1, std::memory_order_release);
  lane.state.store(RowState::kLive, std::memory_order_release);
  row.lanes[count] = i;
  row.lane_count.store(count + 1, std::memory_order_release);
  return static_cast<int>(i);
}

void Schedule::free_lane(LaneRow* lane) {
  lane->done.store(lane->tail.load(), std::memory_order_release);
  lane->state.store(RowState::kFree, std::memory_order_release);
}

void Schedule::drop_context(uint32_t context, uint64_t now) {
  ContextRow& row = file_->contexts[context];
  Engine& engine = file_->devices[row.device].engine;
  if (engine.resident == context + 1) {
    account(&engine, now);
    engine.resident = 0;
    engine.ready_ns = now;
    engine.cold = 0;
    engine.slice_end = 0;
  }
  const uint32_t count = row.lane_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) free_lane(&file_->lanes[row.lanes[i]]);
  row.state.store(RowState::kFree, std::memory_order_release);
  settle(row.device, now);
  settle_waiting(now);
}

void Schedule::drop_orphans(uint64_t now) {
  const auto is_orphan = [this](const auto& row) {
    const ProcessRow& process = file_->processes[row.process];
    return row.state.load(std::memory_order_acquire) == RowState::kLive &&
           (process.state.load(std::memory_order_acquire) != RowState::kLive ||
            process.generation.load(std::memory_order_relaxed) != row.generation);
  };
  const uint32_t contexts = file_->contexts_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < contexts; ++i) {
    if (is_orphan(file_->contexts[i])) drop_context(i, now);
  }
  const uint32_t lanes = file_->lanes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < lanes; ++i) {
    if (is_orphan(file_->lanes[i])) free_lane(&file_->lanes[i]);
  }
}

void Schedule::repair(uint64_t now) {
  drop_orphans(now);
  for (uint32_t d = 0; d < file_->device_count; ++d) {
    Engine& engine = file_->devices[d].engine;
    const ContextRow* context = resident(engine);
    if (context != nullptr && (context->state.load() != RowState::kLive || context->device != d))
      engine.resident = 0;
    engine.ready_ns = std::min(engine.ready_ns, now + file_->switch_ns + file_->refill_ns);
    engine.slice_begin = std::min(engine.slice_begin, engine.ready_ns);
    engine.slice_end = 0;
    settle(d, now);
  }
}

}  // namespace softmig::sim
