// What the GPU took: brackets of two events around launches of one stream, and what is known of the
// streams and contexts that this process launches into.
//
// A bracket holds one launch, which is a sample of its kind, or an unbroken run of about a
// millisecond of them. Brackets of a stream end in order; whoever launches or waits collects them.
// Nothing here waits for the GPU, and no lock is held while a driver function runs that could.
//
// A lock is only ever tried on the way of a launch: where somebody else holds it, that launch is
// not timed. So launches never wait for each other here, whatever the driver does inside them.
#pragma once

#include "cuda/state.h"
#include "policy/cost.h"

namespace softmig::cuda {

// Runs of launches are cut into brackets of this much GPU time.
inline constexpr uint64_t kBracketNs = 1'000'000;
// Streams that took turns this recently may overlap.
inline constexpr uint64_t kTurnsNs = 10'000'000;

struct Bracket {
  CUevent begin = nullptr, end = nullptr;
  uint64_t key = 0;       // a single launch: of its cost
  uint64_t function = 0;  // and of its function's cost per block, 0: none
  uint64_t blocks = 0;
  uint64_t charged = 0;    // for all its launches
  uint64_t alone = 0;      // what they cost without regard to other streams
  uint64_t begun_ns = 0;   // host clock, before the first launch
  uint64_t host_ns = 0;    // first launch into an idle stream: the GPU began so much later
  uint64_t latest_ns = 0;  // the latest time at which the GPU may have begun and never have starved
  uint64_t late_at_ns = 0;  // not done by then: something is not as it was thought
  uint32_t launches = 0;
  bool guessed = false;  // charged for a kernel that nobody had seen
  bool collective = false;
};

struct Context;

// A stream, as launches see it.
struct Line {
  static constexpr uint32_t kClosed = 16;

  // Stays when the line ends: launches may still be at the gate (Launch::has_ended).
  Context* context = nullptr;
  CUstream handle = nullptr;  // CU_STREAM_LEGACY, CU_STREAM_PER_THREAD or the program's
  uint64_t key = 0;
  Line* next = nullptr;  // of its context, or free

  std::atomic<uint32_t> launches{0};    // ever made
  std::atomic<uint64_t> done_ns{0};     // when what was launched should be done
  std::atomic<uint64_t> late_at_ns{0};  // of the oldest bracket that was not collected; 0: none
  std::atomic<uint32_t> failures{0};    // of the driver's events on this stream

  // Taken with `grab`, given back with `release`: the bracket that is open.
  std::atomic<uint32_t> held{0};
  bool is_open = false;
  Bracket open;
  uint64_t target_ns = 0;  // of a run: less where the program waits before it is full
  uint64_t slack_ns = 0;   // by which dense brackets took more than they were charged

  // Under the context's lock: brackets on their way.
  Bracket closed[kClosed];
  uint32_t closed_begin = 0, closed_end = 0;

  bool grab() { return held.exchange(1, std::memory_order_acquire) == 0; }
  void release() { held.store(0, std::memory_order_release); }
};

// All zeros until it is made: 256 of them are a part of the library that no program reads from
// disk.
struct Context {
  static constexpr uint32_t kNoOverlap = 1 << 12;
  static constexpr uint32_t kEvents = 256;

  CUcontext handle = nullptr;  // null: free
  int device = 0;
  bool is_mps = false;
  std::atomic<uint64_t> salt{0};            // no other context has it; 0: it has ended
  std::atomic<uint32_t> unknown{0};         // samples of unseen kernels on their way
  std::atomic<uint64_t> backlog_ns{0};      // charged for brackets that were not collected
  std::atomic<uint64_t> drained_ns{0};      // when the latest of the collected ones ended
  std::atomic<uint64_t> collected_ns{0};    // when a bracket was last seen to be done
  std::atomic<uint64_t> collect_due_ns{0};  // when a launch should look again
  std::atomic<Line*> last_line{nullptr};    // that was launched into
  std::atomic<uint64_t> turned_ns{0};       // when it was another than before
  std::atomic<uint32_t> overlap{0};         // part of its cost that a launch adds to the others
  std::atomic<int32_t> gap_ns{0};  // between launches that follow each other, beyond samples

  Line spare;  // for streams beyond kLines: charged by what is known, never timed

  sys::Mutex lock;
  Line* lines = nullptr;
  CUevent events[kEvents] = {};
  uint32_t event_count = 0, events_made = 0;
  // The GPU's clock: an event, and the host's clock when it happened.
  CUevent anchor = nullptr;
  uint64_t anchor_ns = 0, anchored_ns = 0;
  uint64_t pair_ns = 0;  // what an empty bracket takes
  uint32_t empties = 0;  // how many were made
};

// The line of a launch; null if there is no context, or no room for it.
Line* line_of(CUstream stream, bool per_thread);
// Forgets what belongs to a stream or context that ends. Contexts are paused while the driver may
// be ending them.
void forget_stream(CUstream stream);
void end_timing(CUcontext context);
bool pause_timing(CUcontext context);
void resume_timing(CUcontext context, bool alive);

// While it lives, our own questions invalidate nobody's capture.
class RelaxedCapture {
 public:
  RelaxedCapture();
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

// Begins a bracket: its first event is recorded. False: not possible now. RelaxedCapture is the
// caller's.
bool begin_bracket(Line& line, uint64_t now, Bracket* bracket);
// Records its second event and puts it on its way. If that fails the bracket is forgotten; false.
bool end_bracket(Line& line, const Bracket& bracket);
// Adds a launch to a bracket that was begun.
void enter_bracket(Line& line, Bracket& bracket, uint64_t charged, uint64_t alone);
// Takes back a bracket whose launches cannot be told from others'.
void drop_bracket(Line& line, const Bracket& bracket);
// Sees which brackets of the context are done.
void collect(Context& context);
// Up to `room` lines of the context whose run is open; how many.
uint32_t open_lines(Context& context, Line** lines, uint32_t room);
// When what the context has in brackets should be done; 0: nothing is on its way.
uint64_t busy_until(const Context& context);
// Whether any of the context's brackets began by `ns` and is not done.
bool is_waiting_since(Context& context, uint64_t ns);

// A bracket is done; it ran from `begin` to `end`, host clock. Called with the context's lock held
// (throttle.cc).
void settle(Line& line, const Bracket& bracket, uint64_t begin, uint64_t end);
// A bracket will never be done.
void give_up(Line& line, const Bracket& bracket);

}  // namespace softmig::cuda
