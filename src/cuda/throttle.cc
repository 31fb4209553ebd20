#include "cuda/throttle.h"

#include <algorithm>

#include "base/mix.h"
#include "policy/busy.h"
#include "sys/clock.h"
#include "sys/memory.h"
#include "sys/self.h"

SM_DRIVER(cuCtxGetCurrent);
SM_DRIVER(cuFuncGetName);
SM_DRIVER(cuKernelGetName);
SM_DRIVER(cuMemGetInfo_v2);
SM_DRIVER(cuStreamIsCapturing);
SM_DRIVER(cuStreamQuery);

namespace softmig::cuda {
namespace {

using policy::Company;
using policy::Cost;
using policy::ShareRule;
using std::memory_order_acquire;
using std::memory_order_relaxed;

// Kernels that nobody has seen yet may cost anything: so many of them may be on their way at once.
constexpr uint32_t kMostUnknown = 8;
// Nothing of this process has ended for so long: a launch passes, since what is on the GPU may wait
// for it.
constexpr uint64_t kStuckNs = 500'000'000;
constexpr uint64_t kPatientNs = 200'000'000;
constexpr uint64_t kShortNapNs = 50'000, kLongNapNs = 500'000;
// What hardware adds between two launches, or events to a sample, is below this.
constexpr int64_t kMostGapNs = 3000;
constexpr uint64_t kMostSlackNs = 4 * kBracketNs;
// A context of somebody else takes more than this.
constexpr uint64_t kForeignBytes = 300 * base::kMiB;
constexpr uint64_t kLookNs = 500'000'000;
// Another process of the job that finished work this recently shares the GPU.
constexpr uint64_t kPeerUs = 100'000, kPeerNs = 300'000'000;
constexpr uint64_t kCostPerBlockScale = 256;
// How often launches look which brackets are done.
constexpr uint64_t kCollectNs = 500'000;
// The host takes about this long to reach an idle GPU with a launch, and seldom longer.
constexpr uint64_t kReachNs = 4'000, kMostReachNs = 6'000;

constinit policy::CostTable g_costs;
constinit std::atomic<int> g_captures{0};
constinit thread_local uint64_t t_random = 0;

// Who else is on a device.
struct Neighbours {
  std::atomic<uint64_t> looked_ns{0};
  std::atomic<bool> alone{false};    // there is no context that is not the job's
  std::atomic<uint64_t> peer_ns{0};  // when another process of the job was last seen at work
};
constinit Neighbours g_neighbours[abi::kMaxDevices];

// What this process asks of a device, and what the board says about its slots.
struct Appetite {
  std::atomic<uint64_t> since_ns{0}, gpu_ns{0};        // the window that is being watched
  std::atomic<uint64_t> held_ns{0}, held_until_ns{0};  // of it at the gate
  std::atomic<bool> confined{false};                   // since it began
  std::atomic<uint64_t> board_due_ns{0};
  std::atomic<uint32_t> open_slots{0};
  policy::TurnBoard turns = {};
};
constinit Appetite g_appetites[abi::kMaxDevices];
// After a launch passed because nothing moved, so many more do; twice as many each time.
constinit std::atomic<uint32_t> g_passes{0}, g_next_passes{1};

ShareRule rule_of(const Context& context) {
  ShareRule rule = slice().share_rule(context.device);
  // Slots are of use where contexts take turns: not alone, and not where they run at the same time.
  const bool alone = g_neighbours[context.device].alone.load(memory_order_relaxed);
  if (context.is_mps || alone) rule.mode = policy::ShareMode::kBudget;
  rule.open_mask = g_appetites[context.device].open_slots.load(memory_order_relaxed);
  return rule;
}

// Tells the board whether the job fills its slots, and asks it who else does not.
void consult_board(int device, const ShareRule& rule, bool light, uint64_t now) {
  Appetite& appetite = g_appetites[device];
  appetite.board_due_ns.store(now + rule.frame_ns, memory_order_relaxed);
  slice().claim_slots(device, rule, light ? 0 : now + 2 * policy::demand_window_ns(rule));
  appetite.open_slots.store(light ? slice().open_slots(device, rule, now) : 0,
                            memory_order_relaxed);
}

void watch_demand(int device, const ShareRule& rule, uint64_t cost, uint64_t now) {
  if (rule.mode != policy::ShareMode::kFill || !rule.has_slots()) return;
  Appetite& appetite = g_appetites[device];
  abi::RegionShare& share = slice().share(device);
  appetite.gpu_ns.fetch_add(cost, memory_order_relaxed);
  uint64_t due = appetite.board_due_ns.load(memory_order_relaxed);
  if (now < due || !appetite.board_due_ns.compare_exchange_strong(due, now + rule.frame_ns)) return;
  const uint64_t since = appetite.since_ns.load(memory_order_relaxed);
  if (since == 0 || now - since >= policy::demand_window_ns(rule)) {
    const uint64_t gpu = appetite.gpu_ns.exchange(0, memory_order_relaxed);
    const uint64_t held = appetite.held_ns.exchange(0, memory_order_relaxed);
    const bool confined = appetite.confined.load(memory_order_relaxed);
    if (since != 0) {
      const uint64_t all = now - since;
      policy::note_demand(share, rule, {gpu, all - std::min(held, all), confined}, now);
    }
    appetite.since_ns.store(now, memory_order_relaxed);
    appetite.confined.store(!policy::is_light(share, rule, now), memory_order_relaxed);
  }
  const bool light = policy::is_light(share, rule, now);
  if (light) appetite.confined.store(false, memory_order_relaxed);
  consult_board(device, rule, light, now);
}

// A thread was held from `begin` on; several at once count once.
void note_held(int device, uint64_t begin, uint64_t now) {
  Appetite& appetite = g_appetites[device];
  const uint64_t from = std::max(begin, appetite.held_until_ns.exchange(now, memory_order_relaxed));
  if (now > from) appetite.held_ns.fetch_add(now - from, memory_order_relaxed);
}

uint64_t random_bits() {
  uint64_t x = t_random != 0 ? t_random : reinterpret_cast<uint64_t>(&t_random) | 1;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  t_random = x;
  return x >> 11;
}

// False: there is no memory for the table.
bool have_costs() {
  if (!g_costs.empty()) return true;
  auto* rows = static_cast<Cost*>(sys::map_pages(policy::CostTable::kBytes));
  if (rows == nullptr) return false;
  if (!g_costs.adopt(rows)) sys::unmap_pages(rows, policy::CostTable::kBytes);
  return true;
}

void look_for_neighbours(Context& context, uint64_t now) {
  Neighbours& near = g_neighbours[context.device];
  uint64_t due = near.looked_ns.load(memory_order_relaxed);
  if (now < due || !near.looked_ns.compare_exchange_strong(due, now + kLookNs)) return;
  CUcontext current = nullptr;
  size_t free_bytes = 0, total_bytes = 0;
  if (next_cuCtxGetCurrent(&current) != CUDA_SUCCESS || current != context.handle ||
      next_cuMemGetInfo_v2(&free_bytes, &total_bytes) != CUDA_SUCCESS) {
    return;
  }
  const uint64_t ours = slice().memory(context.device).used;
  near.alone.store(total_bytes - free_bytes <= ours + kForeignBytes, memory_order_relaxed);
}

void look_for_peers(int device, uint64_t now) {
  const auto slot = static_cast<uint64_t>(slice().slot());
  const uint64_t us = now / 1000 & 0xffffffffffff;
  const uint64_t last = slice().share(device).last_user.exchange(slot << 48 | us);
  const uint64_t age = us - (last & 0xffffffffffff);
  if (last >> 48 != slot && last != 0 && age < kPeerUs) {
    g_neighbours[device].peer_ns.store(now, memory_order_relaxed);
  }
}

bool is_alone(int device, uint64_t now) {
  const Neighbours& near = g_neighbours[device];
  const uint64_t peer = near.peer_ns.load(memory_order_relaxed);
  return near.alone.load(memory_order_relaxed) && (peer == 0 || now - peer > kPeerNs);
}

// Other streams of this context that had work at the time.
bool is_overlapped(const Line& line, uint64_t begin) {
  for (const Line* other = line.context->lines; other != nullptr; other = other->next) {
    if (other != &line && other->done_ns.load(memory_order_relaxed) > begin) return true;
  }
  return false;
}

void correct(Context& context, const ShareRule& rule, uint64_t charged, uint64_t cost, uint64_t now,
             bool collective = false) {
  abi::RegionShare& share = slice().share(context.device);
  if (cost > charged)
    (collective ? policy::charge_spin : policy::charge)(share, rule, cost - charged, now);
  if (cost < charged) policy::refund(share, rule, charged - cost);
  if (abi::RegionAccount* account = slice().account(context.device)) {
    account->gpu_ns.fetch_add(cost - charged, memory_order_relaxed);
  }
}

uint64_t with_gap(const Context& context, uint64_t cost) {
  const auto gapped = static_cast<int64_t>(cost) + context.gap_ns.load(memory_order_relaxed);
  return static_cast<uint64_t>(std::max<int64_t>(gapped, 500));
}

void sample_ends(Context& context, const Bracket& bracket) {
  Cost* row = bracket.key != 0 ? g_costs.look(bracket.key) : nullptr;
  if (row != nullptr && row->pending.load(memory_order_relaxed) != 0) row->pending.fetch_sub(1);
  if (bracket.guessed) context.unknown.fetch_sub(1, memory_order_relaxed);
}

// A single launch: what it took is what it cost, if nobody else was there.
uint64_t settle_single(Context& context, const Bracket& bracket, uint64_t took, Company company) {
  // A GPU that was idle waited for the launch. If it was somebody else's it did so meanwhile.
  const bool trusted = company == Company::kNobody;
  const uint64_t reach = trusted ? bracket.host_ns : std::min(bracket.host_ns, kMostReachNs);
  const uint64_t overhead = bracket.host_ns != 0 ? reach : context.pair_ns;
  const uint64_t sample = std::max(took - std::min(took, overhead), took / 4);
  // What a collective takes beyond its work says nothing about the next one.
  const Company lesson = bracket.collective && trusted ? Company::kContexts : company;
  Cost& row = g_costs.find(bracket.key);
  policy::learn(row, sample, lesson, bracket.host_ns == 0 && !bracket.collective);
  if (bracket.function != 0) {
    policy::learn(g_costs.find(bracket.function), sample * kCostPerBlockScale / bracket.blocks,
                  lesson);
  }
  if (trusted) return with_gap(context, sample);
  return bracket.guessed ? with_gap(context, policy::estimate(row)) : bracket.alone;
}

// A dense run tells what lies between launches.
void learn_gap(Context& context, const Bracket& bracket, uint64_t took) {
  if (bracket.launches < 8) return;
  const int32_t gap = context.gap_ns.load(memory_order_relaxed);
  const auto beyond = static_cast<int64_t>(took) - static_cast<int64_t>(context.pair_ns) -
                      static_cast<int64_t>(bracket.alone);
  const int64_t seen = gap + beyond / static_cast<int64_t>(bracket.launches);
  const int64_t next = gap + (seen - gap) / 16;
  context.gap_ns.store(static_cast<int32_t>(std::clamp(next, -kMostGapNs, kMostGapNs)),
                       memory_order_relaxed);
}

// Only means are known: by what a dense run took longer than its charge, the next may take less
// without a refund.
uint64_t with_slack(Line& line, const Bracket& bracket, uint64_t begin, uint64_t end,
                    uint64_t fits) {
  if (bracket.latest_ns > begin) return fits;  // the GPU waited for the program
  const uint64_t took = end - begin;
  if (fits == bracket.alone) {
    line.slack_ns = std::min(line.slack_ns + (took - std::min(took, fits)), kMostSlackNs);
    return fits;
  }
  const uint64_t kept = std::min(line.slack_ns, bracket.alone - fits);
  line.slack_ns -= kept;
  return fits + kept;
}

// What launches on several streams add to each other, so that the next are charged about right.
void learn_overlap(Context& context, uint64_t alone, uint64_t fits) {
  const auto now = static_cast<int64_t>(context.overlap.load(memory_order_relaxed));
  const auto seen = static_cast<int64_t>(fits * Context::kNoOverlap / std::max<uint64_t>(alone, 1));
  const int64_t next = now + (seen - now) / 8;
  context.overlap.store(static_cast<uint32_t>(std::clamp<int64_t>(next, 64, Context::kNoOverlap)),
                        memory_order_relaxed);
}

bool takes_turns(const Context& context, uint64_t now) {
  return now - context.turned_ns.load(memory_order_relaxed) < kTurnsNs;
}

uint64_t with_overlap(const Context& context, uint64_t cost, uint64_t now) {
  if (!takes_turns(context, now)) return cost;
  return cost * context.overlap.load(memory_order_relaxed) / Context::kNoOverlap;
}

}  // namespace

void settle(Line& line, const Bracket& bracket, uint64_t begin, uint64_t end) {
  Context& context = *line.context;
  const uint64_t now = sys::monotonic_ns();
  sample_ends(context, bracket);
  g_passes.store(0, memory_order_relaxed);
  g_next_passes.store(1, memory_order_relaxed);
  const ShareRule rule = rule_of(context);
  if (rule.percent == 0 || end <= begin) return;
  look_for_neighbours(context, now);
  look_for_peers(context.device, now);
  // Streams that take turns may overlap more than is known of them.
  const bool overlapped = takes_turns(context, now) || is_overlapped(line, begin);
  const bool trusted = is_alone(context.device, now) && !overlapped;
  const Company company = trusted      ? Company::kNobody
                          : overlapped ? Company::kStreams
                                       : Company::kContexts;
  uint64_t cost = bracket.alone;
  if (bracket.key != 0) cost = settle_single(context, bracket, end - begin, company);
  // Neither the host's way to an idle GPU nor the events themselves are work.
  const uint64_t before =
      bracket.host_ns != 0 ? std::min(bracket.host_ns, kMostReachNs) : context.pair_ns;
  const uint64_t reached = begin + std::min(before, end - begin - 1);
  const uint64_t fits = policy::pour(slice().busy(context.device), reached, end, cost);
  if (overlapped) learn_overlap(context, cost, fits);
  if (bracket.key != 0) {
    // What events add to a single launch is not worth a refund.
    if (!trusted || fits + kMostGapNs < cost) cost = fits;
  } else {
    if (trusted && bracket.latest_ns <= begin) learn_gap(context, bracket, end - begin);
    cost = trusted ? with_slack(line, bracket, begin, end, fits) : fits;
  }
  correct(context, rule, bracket.charged, cost, now, bracket.collective);
}

void give_up(Line& line, const Bracket& bracket) { sample_ends(*line.context, bracket); }

Work kernel_work(CUfunction function, const Shape& shape) {
  const auto pair = [](uint64_t high, uint64_t low) { return high << 32 | low; };
  const uint64_t handle = base::mix(reinterpret_cast<uint64_t>(function), 0);
  uint64_t key = base::mix(handle, pair(shape.grid[0], shape.grid[1]));
  key = base::mix(key, pair(shape.grid[2], shape.block[0]));
  key = base::mix(key, pair(shape.block[1] << 16 | shape.block[2], shape.shared));
  const uint64_t blocks = uint64_t{shape.grid[0]} * shape.grid[1] * shape.grid[2];
  return {key, handle, std::max<uint64_t>(blocks, 1), function};
}

Work graph_work(CUgraphExec exec) {
  return {base::mix(reinterpret_cast<uint64_t>(exec), 2), 0, 0, nullptr};
}

void forget_graph(CUgraphExec exec) {
  if (!g_costs.empty()) g_costs.forget(graph_work(exec).key);
}

void count_capture(int change) { g_captures.fetch_add(change, memory_order_relaxed); }
bool is_capture_open() { return g_captures.load(memory_order_relaxed) > 0; }

namespace {

// When a bracket that ends now is later than anything explains.
uint64_t late_at(const Line& line, uint64_t cost) {
  return line.done_ns.load(memory_order_relaxed) + rule_of(*line.context).frame_ns / 2 + 4 * cost;
}

// Ends the run of a stream, if one is open: it reports when it is done.
void end_run(Context& context, Line& line) {
  if (!line.is_open || !line.grab()) return;
  if (line.is_open && line.context == &context) {
    const RelaxedCapture relaxed;
    line.open.late_at_ns = late_at(line, line.open.alone);
    line.is_open = false;
    end_bracket(line, line.open);
  }
  line.release();
}

// The same for all streams of a context: their last work is launched, for the time being.
void end_runs(Context& context) {
  Line* lines[16];
  const uint32_t count = open_lines(context, lines, std::size(lines));
  for (uint32_t i = 0; i < count; i++) end_run(context, *lines[i]);
}

// The stream has had nothing to do since its last launch: nobody can tell when it was done, so its
// charge stands. Where other streams may have run at the same time, shorter runs will tell.
void drop_run(Line& line, uint64_t now) {
  if (takes_turns(*line.context, now)) line.target_ns /= 2;
  line.is_open = false;
  drop_bracket(line, line.open);
}

}  // namespace

bool Launch::is_held(uint64_t now, bool at_ease) const {
  const Context& context = *line_->context;
  if (unknown_ && !collective_ &&
      (row_->pending.load(memory_order_relaxed) != 0 ||
       context.unknown.load(memory_order_relaxed) >= kMostUnknown) &&
      !policy::is_known(*row_)) {
    return true;
  }
  const uint64_t late = line_->late_at_ns.load(memory_order_relaxed);
  // A job far from its limit is given more time: it may be waiting for a copy. Where kernels wait
  // for each other, one is late because another was not launched yet.
  return late != 0 && now > late + (at_ease ? kPatientNs : 0) && !is_coupled(now);
}

void look_for_ends(Context& context, uint64_t now) {
  if (context.backlog_ns.load(memory_order_relaxed) == 0 ||
      now < context.collect_due_ns.load(memory_order_relaxed)) {
    return;
  }
  context.collect_due_ns.store(now + kCollectNs, memory_order_relaxed);
  collect(context);
}

// Asked once per kernel.
bool Launch::waits_for_peers(const Work& work) {
  if (work.handle == nullptr) return false;
  policy::Nature nature = row_->nature.load(memory_order_relaxed);
  if (nature == policy::Nature::kNotKnown) {
    const char* name = nullptr;
    if (next_cuFuncGetName(&name, work.handle) != CUDA_SUCCESS &&
        next_cuKernelGetName(&name, reinterpret_cast<CUkernel>(work.handle)) != CUDA_SUCCESS) {
      name = nullptr;
    }
    nature = name == nullptr ? policy::Nature::kOrdinary : policy::nature_of(name);
    row_->nature.store(nature, memory_order_relaxed);
  }
  return nature == policy::Nature::kCollective;
}

policy::Admission Launch::ask(const ShareRule& rule, uint64_t now, bool has_waited) {
  const Context& context = *line_->context;
  if (collective_ && slice().has_several_devices()) {
    return policy::admit_collective(slice().shares(), context.device, rule, cost_, now);
  }
  ShareRule here = rule;
  if (is_coupled(now))
    here = rule.with_credit(policy::is_awaited(slice().shares(), context.device, now));
  abi::RegionShare& share = slice().share(context.device);
  policy::TurnBoard& turns = g_appetites[context.device].turns;
  if (policy::asks_board(share, here, now)) slice().read_turns(context.device, here, turns);
  const policy::Admission admission =
      policy::admit(share, here, cost_, now, has_waited, busy_until(context), turns);
  if (admission.notice.until_ns != 0) slice().tell_turn(context.device, admission.notice);
  return admission;
}

// Whether kernels on other devices of the job may be waiting for this one.
bool Launch::is_coupled(uint64_t now) const {
  return slice().has_several_devices() &&
         policy::is_coupled(slice().share(line_->context->device), now);
}

void Launch::begin(CUstream stream, bool per_thread, const Work& work) {
  Line* line = line_of(stream, per_thread);
  if (line == nullptr || !have_costs()) return;
  Context& context = *line->context;
  bool timed = true;
  if (is_capture_open()) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (next_cuStreamIsCapturing(line->handle, &status) != CUDA_SUCCESS ||
        status != CU_STREAM_CAPTURE_STATUS_NONE) {
      return;
    }
    // An event on the legacy stream would be part of others' captures.
    timed = reinterpret_cast<uintptr_t>(line->handle) != CU_STREAM_LEGACY_VALUE;
  }
  const ShareRule rule = rule_of(context);
  if (rule.percent == 0) return;
  line_ = line;
  owner_ = context.salt;
  // The same kernel may take longer in another context: on another device, in a green context.
  const bool is_graph = work.function == 0;
  row_ = &g_costs.find(is_graph ? work.key : base::mix(work.key, context.salt));
  uint64_t cost = policy::estimate(*row_);
  if (!policy::is_known(*row_)) {
    const Cost* kin = is_graph ? nullptr : g_costs.look(base::mix(work.function, context.salt));
    unknown_ = kin == nullptr || !policy::is_known(*kin);
    guessed_ = true;
    if (!unknown_) {
      cost = std::max<uint64_t>(2000, policy::estimate(*kin) * work.blocks / kCostPerBlockScale);
    }
  }
  uint64_t now = sys::monotonic_ns();
  alone_ = with_gap(context, cost);
  cost_ = with_overlap(context, alone_, now);
  if (slice().refresh_is_due(now)) slice().refresh();
  abi::RegionShare& share = slice().share(context.device);
  const bool at_ease = policy::is_at_ease(share, rule, now);
  policy::Admission admission = {};
  collective_ = waits_for_peers(work);
  if (!is_held(now, at_ease)) admission = ask(rule, now, false);
  if (__builtin_expect(!admission.granted, 0)) now = wait();
  // Also before the others came: they count from the same round on.
  if (collective_) policy::count_collective(share, now);
  watch_demand(context.device, rule, cost_, now);
  if (abi::RegionAccount* account = slice().account(context.device)) {
    account->gpu_ns.fetch_add(cost_, memory_order_relaxed);
    (is_graph ? account->graph_launches : account->launches).fetch_add(1, memory_order_relaxed);
  }
  const uint64_t done = std::max(now, line->done_ns.load(memory_order_relaxed));
  line->done_ns.store(done + alone_, memory_order_relaxed);
  if (context.last_line.load(memory_order_relaxed) != line) {
    context.last_line.store(line, memory_order_relaxed);
    context.turned_ns.store(now, memory_order_relaxed);
  }
  number_ = line->launches.fetch_add(1, memory_order_relaxed) + 1;
  look_for_ends(context, now);
  if (!timed || has_ended()) return;
  const bool single = collective_ || policy::is_due(*row_, random_bits()) || alone_ >= kBracketNs;
  // In slots the end of what was launched matters as well: work that ends late runs into the next.
  const bool in_runs = !at_ease || rule.has_slots();
  if (single || in_runs || line->is_open) begin_timing(work, now, single, in_runs);
}

// Whether a stream had nothing to do before the launch that is being made. Where streams take turns
// nobody can reckon when one of them is done.
bool is_idle(const Line& line, uint64_t now, uint64_t cost) {
  if (line.done_ns.load(memory_order_relaxed) > now + cost + 2000) return false;
  return !takes_turns(*line.context, now) || next_cuStreamQuery(line.handle) == CUDA_SUCCESS;
}

void Launch::begin_timing(const Work& work, uint64_t now, bool single, bool in_runs) {
  Line& line = *line_;
  if (!line.grab()) return;
  const RelaxedCapture relaxed;
  // What the stream still has to do hides the time that the host needs for a launch.
  const bool idle = is_idle(line, now, alone_);
  if (line.is_open && idle) drop_run(line, now);
  if (line.is_open && (single || !in_runs)) {
    line.is_open = false;
    end_bracket(line, line.open);
  }
  if (single) {
    if (begin_bracket(line, now, &bracket_)) {
      timing_ = Timing::kSingle;
      bracket_.key = row_->key.load(memory_order_relaxed);
      bracket_.function = work.function != 0 ? base::mix(work.function, line.context->salt) : 0;
      bracket_.blocks = std::max<uint64_t>(work.blocks, 1);
      enter_bracket(line, bracket_, cost_, alone_);
      bracket_.guessed = guessed_;
      bracket_.collective = collective_;
      bracket_.host_ns = idle ? sys::monotonic_ns() : 0;
      row_->pending.fetch_add(1, memory_order_relaxed);
      if (guessed_) line.context->unknown.fetch_add(1, memory_order_relaxed);
    }
  } else if (in_runs) {
    if (!line.is_open) {
      line.is_open = begin_bracket(line, now, &line.open);
      line.open.host_ns = idle ? kReachNs : 0;
    }
    if (line.is_open) {
      timing_ = Timing::kRun;
      // The GPU had no more than the launches before this one to do until now.
      line.open.latest_ns = std::max(line.open.latest_ns, now - line.open.alone);
      enter_bracket(line, line.open, cost_, alone_);
    }
  }
  line.release();
}

CUresult Launch::end(CUresult result) {
  if (line_ == nullptr) return result;
  // Its brackets went with the context.
  if (__builtin_expect(has_ended(), 0)) timing_ = Timing::kNone;
  if (__builtin_expect(result != CUDA_SUCCESS, 0)) {
    fail();
    return result;
  }
  if (timing_ == Timing::kNone) return result;
  Line& line = *line_;
  if (timing_ == Timing::kRun) {
    if (line.open.alone < line.target_ns) return result;
    line.target_ns = std::min(line.target_ns + line.target_ns / 4 + 1, kBracketNs);
    end_run(*line.context, line);
    collect(*line.context);
    return result;
  }
  const RelaxedCapture relaxed;
  if (bracket_.host_ns != 0) bracket_.host_ns = sys::monotonic_ns() - bracket_.host_ns;
  bracket_.late_at_ns = late_at(line, alone_);
  if (line.launches.load(memory_order_relaxed) != number_) {
    // Another thread launched into the stream meanwhile.
    drop_bracket(line, bracket_);
    give_up(line, bracket_);
  } else if (!end_bracket(line, bracket_)) {
    give_up(line, bracket_);
  }
  collect(*line.context);
  return result;
}

void Launch::fail() {
  const ShareRule rule = rule_of(*line_->context);
  if (timing_ == Timing::kSingle) {
    drop_bracket(*line_, bracket_);
    give_up(*line_, bracket_);
  } else if (timing_ == Timing::kRun) {
    leave_run();
  }
  if (rule.percent != 0) correct(*line_->context, rule, cost_, 0, sys::monotonic_ns());
}

// What failed is paid back at once, so the run must not be charged for it.
void Launch::leave_run() {
  while (!line_->grab()) sys::yield();
  if (line_->is_open && line_->open.launches != 0) {
    const uint64_t charged = std::min(cost_, line_->open.charged);
    line_->open.charged -= charged;
    line_->open.alone -= std::min(alone_, line_->open.alone);
    line_->context->backlog_ns.fetch_sub(charged, memory_order_relaxed);
  }
  line_->release();
}

// Nothing is on its way, so nothing will end that the launch is held for.
void Launch::forget_hold() {
  row_->pending.store(0, memory_order_relaxed);
  line_->context->unknown.store(0, memory_order_relaxed);
  line_->late_at_ns.store(0, memory_order_relaxed);
}

// True: this launch passes whatever the account says, since what is on the GPU may wait for it.
bool Launch::may_pass(bool hold, uint64_t since, uint64_t now) {
  Context& context = *line_->context;
  if (context.collected_ns.load(memory_order_relaxed) + kStuckNs > now) return false;
  uint32_t passes = g_passes.load(memory_order_relaxed);
  if (hold && passes > 0 && g_passes.compare_exchange_strong(passes, passes - 1)) return true;
  if (now - since < kStuckNs) return false;
  if (!is_waiting_since(context, now - kStuckNs)) {
    if (hold) forget_hold();
    return false;
  }
  if (hold) {
    const uint32_t more = g_next_passes.load(memory_order_relaxed);
    g_next_passes.store(std::min<uint32_t>(more * 2, 1024), memory_order_relaxed);
    g_passes.store(more - 1, memory_order_relaxed);
  }
  return true;
}

uint64_t Launch::wait() {
  Line& line = *line_;
  Context& context = *line.context;
  abi::RegionShare& share = slice().share(context.device);
  const uint64_t begin = sys::monotonic_ns();
  uint64_t now = begin;
  end_runs(context);
  for (;; now = sys::monotonic_ns()) {
    collect(context);
    if (slice().refresh_is_due(now)) slice().refresh();
    const ShareRule rule = rule_of(context);
    if (rule.percent == 0) break;
    const bool hold = is_held(now, policy::is_at_ease(share, rule, now));
    if (may_pass(hold, begin, now)) {
      policy::charge(share, rule, cost_, now);
      break;
    }
    uint64_t nap = now - begin < 20 * kShortNapNs ? kShortNapNs : kLongNapNs;
    if (!hold) {
      const policy::Admission admission = ask(rule, now, true);
      if (admission.granted) break;
      nap = is_waiting_since(context, now) ? std::min(admission.wait_ns, kLongNapNs)
                                           : admission.wait_ns;
    }
    // The system wakes sleepers this much too late.
    if (nap > kShortNapNs) {
      sys::sleep_ns(nap - kShortNapNs);
    } else {
      sys::yield();
    }
  }
  note_held(context.device, begin, now);
  if (abi::RegionAccount* account = slice().account(context.device)) {
    account->waited_ns.fetch_add(now - begin, memory_order_relaxed);
  }
  return now;
}

}  // namespace softmig::cuda
