#include "driver/work.h"

#include <algorithm>
#include <ctime>

#include "driver/objects.h"
#include "state/schedule.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

constexpr uint64_t kShortestWaitNs = 20'000;
constexpr uint64_t kLongestWaitNs = 20'000'000;  // while others want the device: they may die
constexpr uint64_t kRoomWaitNs = 1'000'000;      // a full queue is not looked at for every kernel

StateFile& file() { return driver().state->file(); }
Schedule schedule() { return Schedule(&file()); }

LaneRow& row_of(const Lane& lane) { return file().lanes[lane.row]; }

uint64_t queued(const Lane& lane) {
  const LaneRow& row = row_of(lane);
  return row.tail.load(std::memory_order_relaxed) - row.done.load(std::memory_order_acquire);
}

// The lane for the stream's next operation. Needs the Guard if it may have to make one.
Lane* lane_for(const Stream& stream, bool may_add) {
  Lane* last = stream.last.lane;
  if (!is_done(stream.last)) return last;
  Context* context = stream.context;
  const bool mine = last != nullptr && stream.lanes_of == context->queues_opened;
  if (mine && queued(*last) == 0) return last;
  for (Lane* lane : context->lanes) {
    if (queued(*lane) == 0) return lane;
  }
  if (may_add) {
    const int row = schedule().add_lane(static_cast<uint32_t>(context->queues));
    if (row >= 0) {
      context->lanes.push_back(new Lane());
      context->lanes.back()->row = static_cast<uint32_t>(row);
      return context->lanes.back();
    }
  }
  return *std::min_element(context->lanes.begin(), context->lanes.end(),
                           [](Lane* a, Lane* b) { return queued(*a) < queued(*b); });
}

// Fetches the times of events up to that operation.
void fetch_times(Lane* lane, uint64_t number) {
  while (!lane->marks.empty() && lane->marks.front().first <= number) {
    const auto [at, event] = lane->marks.front();
    lane->marks.pop_front();
    if (event->ticket == Ticket{lane, at}) event->time = row_of(*lane).ops[at % kLaneOps].end_ns;
  }
}

void append(Stream* stream, Op op, uint64_t now) {
  Lane* lane = lane_for(*stream, true);
  op.priority = static_cast<int8_t>(stream->priority);
  const uint64_t next = row_of(*lane).tail.load(std::memory_order_relaxed) + 1;
  if (next > kLaneOps) fetch_times(lane, next - kLaneOps);
  stream->last = {lane, schedule().put(lane->row, op, now)};
  stream->lanes_of = stream->context->queues_opened;
  if (is_blocking(*stream)) lane->blocking = stream->last.number;
}

void append_wait(Stream* stream, const Ticket& ticket, uint64_t now) {
  if (is_done(ticket) || ticket.lane == lane_for(*stream, true)) return;
  Op op{};
  op.kind = OpKind::kWait;
  op.work = ticket.number;
  op.fill = ticket.lane->row;
  append(stream, op, now);
}

// The legacy stream waits for the blocking ones, and they for it.
void keep_legacy_order(Stream* stream, uint64_t now) {
  Context* context = stream->context;
  if (stream == context->legacy) {
    const std::vector<Lane*> lanes = context->lanes;
    for (Lane* lane : lanes) {
      if (lane->followed >= lane->blocking) continue;
      append_wait(stream, {lane, lane->blocking}, now);
      lane->followed = lane->blocking;
    }
  } else if (is_blocking(*stream) && !(stream->followed == context->legacy->last)) {
    append_wait(stream, context->legacy->last, now);
    stream->followed = context->legacy->last;
  }
}

void sleep_until(Call& call, uint64_t time_ns) {
  call.lock().unlock();
  const timespec until{static_cast<time_t>(time_ns / 1'000'000'000),
                       static_cast<long>(time_ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) {
  }
  call.lock().lock();
}

// When to look again whether the lane has room; 0: it has.
uint64_t next_look_for_room(const Stream& stream) {
  if (queued(*lane_for(stream, false)) < kQueuedOps) return 0;
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  Lane* lane = lane_for(stream, true);
  if (queued(*lane) < kQueuedOps) return 0;
  const LaneRow& row = row_of(*lane);
  const uint64_t one = schedule().earliest(lane->row, row.tail - kQueuedOps + 1, now);
  const uint64_t half = schedule().earliest(lane->row, row.tail - kQueuedOps / 2, now);
  const uint64_t wait = std::min({std::max(one, now + kRoomWaitNs), half, now + kLongestWaitNs});
  return std::max(wait, now + kShortestWaitNs);
}

}  // namespace

uint32_t fill_of(const Context& context, uint64_t blocks) {
  const auto room = 2 * static_cast<uint64_t>(context.device->row->multiprocessors);
  if (blocks >= room) return kWhole;
  return std::max<uint32_t>(1, static_cast<uint32_t>(blocks * kWhole / room));
}

bool open_queues(Context* context) {
  const State::Guard guard(driver().state);
  driver().state->catch_up();
  const Process& process = *driver().process;
  context->queues = schedule().make_context(process.index(), process.generation(),
                                            static_cast<uint32_t>(context->device->index));
  if (context->queues < 0) return false;
  context->queues_opened = driver().next_id++;
  context->lanes = {new Lane()};
  context->lanes[0]->row = file().contexts[context->queues].lanes[0];
  return true;
}

void close_queues(Context* context) {
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  for (Lane* lane : context->lanes) fetch_times(lane, row_of(*lane).done.load());
  schedule().drop_context(static_cast<uint32_t>(context->queues), now);
  for (Lane* lane : context->lanes) {
    for (const auto& [number, event] : lane->marks) {
      if (event->ticket == Ticket{lane, number}) event->time = now;
    }
    lane->marks.clear();
  }
  context->lanes.clear();
  context->queues = -1;
}

Ticket enqueue(Stream* stream, const Work& work) {
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  keep_legacy_order(stream, now);
  Op op{};
  op.kind = OpKind::kKernel;
  op.work = std::min(work.ns, kMostWorkNs);
  op.fill = std::clamp<uint32_t>(work.fill, 1, kWhole);
  op.kernels = static_cast<uint16_t>(std::clamp(work.kernels, 1u, 65535u));
  append(stream, op, now);
  return stream->last;
}

Ticket enqueue_hold(Stream* stream) {
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  keep_legacy_order(stream, now);
  Op op{};
  op.kind = OpKind::kHold;
  append(stream, op, now);
  return stream->last;
}

Ticket mark(Stream* stream) {
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  keep_legacy_order(stream, now);
  const Ticket last = stream->last;
  if (!is_done(last) && row_of(*last.lane).tail.load() == last.number) return last;
  Op op{};
  op.kind = OpKind::kMark;
  append(stream, op, now);
  return stream->last;
}

void follow(Stream* stream, const Ticket& ticket) {
  if (is_done(ticket)) return;
  const State::Guard guard(driver().state);
  append_wait(stream, ticket, driver().state->catch_up());
}

void keep_time(Event* event) {
  Lane* lane = event->ticket.lane;
  event->time = 0;
  fetch_times(lane, row_of(*lane).done.load(std::memory_order_acquire));
  const bool kept =
      !lane->marks.empty() && lane->marks.back() == std::pair(event->ticket.number, event);
  if (!kept) lane->marks.emplace_back(event->ticket.number, event);
}

uint64_t time_of(Event* event) {
  if (event->time == 0)
    fetch_times(event->ticket.lane,
                row_of(*event->ticket.lane).done.load(std::memory_order_acquire));
  return event->time;
}

Stream* find_stream_with_room(Call& call, CUstream handle, bool per_thread, CUresult* code) {
  for (;;) {
    Context* context = call.context();  // none: the handle says it
    const bool good = context == nullptr || context->alive;
    *code = good ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
    Stream* stream = good ? find_stream(handle, per_thread, context, code) : nullptr;
    if (stream == nullptr || stream->capture != nullptr) return stream;
    const uint64_t again = next_look_for_room(*stream);
    if (again == 0) return stream;
    sleep_until(call, again);
  }
}

void look() {
  const State::Guard guard(driver().state);
  driver().state->catch_up();
}

bool is_done(const Ticket& ticket) {
  return ticket.lane == nullptr || schedule().is_done(ticket.lane->row, ticket.number);
}

bool is_done_now(const Ticket& ticket) {
  if (is_done(ticket)) return true;
  look();
  return is_done(ticket);
}

bool are_done(const Tickets& tickets) {
  return std::all_of(tickets.begin(), tickets.end(),
                     [](const Ticket& one) { return is_done(one); });
}

uint64_t look_ahead(const Tickets& tickets) {
  const State::Guard guard(driver().state);
  const uint64_t now = driver().state->catch_up();
  uint64_t until = now;
  for (const Ticket& ticket : tickets) {
    if (!is_done(ticket))
      until = std::max(until, schedule().earliest(ticket.lane->row, ticket.number, now));
  }
  if (until == now && are_done(tickets)) return now;
  bool contended = false;
  for (uint32_t d = 0; d < file().device_count; ++d) contended |= schedule().is_contended(d);
  if (contended) until = std::min(until, now + kLongestWaitNs);
  return std::max(until, now + kShortestWaitNs);
}

void add_ticket(Tickets* tickets, const Ticket& ticket) {
  tickets->erase(std::remove_if(tickets->begin(), tickets->end(),
                                [&](const Ticket& one) {
                                  return is_done(one) ||
                                         (one.lane == ticket.lane && one.number <= ticket.number);
                                }),
                 tickets->end());
  if (!is_done(ticket)) tickets->push_back(ticket);
}

Tickets stream_work(const Stream& stream) {
  Tickets work{stream.last};
  if (&stream == stream.context->legacy) {
    for (Lane* lane : stream.context->lanes) work.push_back({lane, lane->blocking});
  }
  return work;
}

Tickets work_before(const Stream& stream) {
  Tickets work = stream_work(stream);
  if (is_blocking(stream)) work.push_back(stream.context->legacy->last);
  return work;
}

Tickets context_work(const Context& context) {
  Tickets work;
  for (Lane* lane : context.lanes)
    work.push_back({lane, row_of(*lane).tail.load(std::memory_order_relaxed)});
  return work;
}

void wait_for(Call& call, const Tickets& tickets) {
  while (!are_done(tickets)) {
    const uint64_t until = look_ahead(tickets);
    if (are_done(tickets)) return;
    sleep_until(call, until);
  }
}

}  // namespace softmig::sim
