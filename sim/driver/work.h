// Work of this program in the queues of the device: what streams, events and everything that waits
// are made of. When it runs says the schedule in the state file (state/schedule.h).
//
// A stream that has work holds one of its context's lanes; the next time it may be another one.
// Where more streams have work than there are lanes, they share them, as on the card.
//
// Everything here needs the driver's lock, unless it says otherwise.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "abi/cuda.h"
#include "state/layout.h"

namespace softmig::sim {

class Call;
struct Context;
struct Event;
struct Stream;

// A lane of this program. Never given back to the heap.
struct Lane {
  uint32_t row = 0;
  uint64_t blocking = 0;  // last operation of a stream that the legacy one waits for
  uint64_t followed = 0;  // as far as the legacy stream waits for that already
  std::deque<std::pair<uint64_t, Event*>> marks;  // events whose time stands in the lane
};

// An operation in a lane; none: something that is done.
struct Ticket {
  Lane* lane = nullptr;
  uint64_t number = 0;
};

inline bool operator==(const Ticket& a, const Ticket& b) {
  return a.lane == b.lane && a.number == b.number;
}

using Tickets = std::vector<Ticket>;

// What a kernel, or a graph of kernels, asks of the device.
struct Work {
  uint64_t ns = 0;         // that it takes alone
  uint32_t fill = kWhole;  // part of the device, of kWhole
  unsigned int kernels = 1;
};

constexpr uint64_t kMostWorkNs = uint64_t{1} << 46;  // 19 hours

// The part of the context's device that so many blocks fill: two for each multiprocessor fill all.
uint32_t fill_of(const Context& context, uint64_t blocks);

// Makes the context's queues; false where the node has no more of them. Ends them with their work.
bool open_queues(Context* context);
void close_queues(Context* context);

// Appends work to a stream that has room.
Ticket enqueue(Stream* stream, const Work& work);
// Work that takes no part of the device and ends when it is let go (driver/signal.h).
Ticket enqueue_hold(Stream* stream);
// The point in the stream behind all that is in it.
Ticket mark(Stream* stream);
// What the stream gets from now on waits for that operation.
void follow(Stream* stream, const Ticket& ticket);
// The stream's time of an event that was recorded there.
void keep_time(Event* event);
uint64_t time_of(Event* event);

// As find_stream, once the stream's queue has room for what one call adds; lets other threads in
// while it waits.
Stream* find_stream_with_room(Call& call, CUstream handle, bool per_thread, CUresult* code);

// Brings the schedule to the present. What is done is known as of the last look.
void look();
bool is_done(const Ticket& ticket);      // any thread, without the lock
bool is_done_now(const Ticket& ticket);  // looks if need be
bool are_done(const Tickets& tickets);
// A time before which that will not be done, after a look. Any thread, without the lock.
uint64_t look_ahead(const Tickets& tickets);

// Keeps of two operations of a lane the later one, and none that are done.
void add_ticket(Tickets* tickets, const Ticket& ticket);

// What a synchronisation waits for: with the stream, with a copy in the stream, with the context.
Tickets stream_work(const Stream& stream);
Tickets work_before(const Stream& stream);
Tickets context_work(const Context& context);

// Waits until all is done; lets other threads in meanwhile.
void wait_for(Call& call, const Tickets& tickets);

}  // namespace softmig::sim
