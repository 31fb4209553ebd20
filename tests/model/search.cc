// Explicit-state search. A process runs on its own stack until its next access to the region; there
// the search may let another one run, or kill it. A state is the region, and for each process what
// it learnt since its last operation: processes are deterministic, so two states that agree in this
// agree in everything that can follow, and one of them is enough.
#include "search.h"

#include <bitset>
#include <cstring>
#include <new>
#include <unordered_set>

namespace softmig::model {

World g_world;

namespace {

constexpr size_t kStackBytes = 32768;
constexpr uint32_t kMostSteps = 600;  // of one operation: nothing may take longer, nothing may hang
constexpr uint64_t kRedZone = 1024;   // below the frame of switch_away, for its own callees

alignas(64) char g_stack[kMaxProcesses][kStackBytes];
ucontext_t g_search;
const Scenario* g_scenario;
constexpr int kNewcomer = -2;
Process g_newcomer;  // of check_end
int g_current = -1;
bool g_undisturbed = true;
std::string g_fault;
// Words that somebody writes while the processes run. A reading of any other word can be put before
// or after whatever others do. Found by searching: as soon as there is a new one it begins again.
std::bitset<sizeof(abi::Region) / 4> g_written;
bool g_begin_again;
size_t g_word;  // where the process that runs stopped, for traces

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ hash >> 29;
}

uint64_t mix_bytes(uint64_t hash, const void* bytes, size_t size) {
  const char* at = static_cast<const char*>(bytes);
  for (; size >= 8; size -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    hash = mix(hash, word);
  }
  return hash;
}

// Words that no decision of the protocol reads.
bool is_statistic(size_t offset) {
  constexpr size_t kSlots = offsetof(abi::Region, slot), kObjects = offsetof(abi::Region, object);
  if (offset < offsetof(abi::Region, share)) {
    if (offset < offsetof(abi::RegionHeader, device)) return false;
    const size_t at = (offset - offsetof(abi::RegionHeader, device)) % sizeof(abi::RegionDevice);
    return at >= offsetof(abi::RegionDevice, peak);
  }
  const auto in_account = [](size_t at) { return at >= offsetof(abi::RegionAccount, parts); };
  if (offset >= kSlots) {
    const size_t at = (offset - kSlots) % sizeof(abi::RegionSlot);
    if (at < offsetof(abi::RegionSlot, device)) return at == offsetof(abi::RegionSlot, uid);
    return in_account((at - offsetof(abi::RegionSlot, device)) % sizeof(abi::RegionAccount));
  }
  if (offset < kObjects) return true;  // shares of time
  const size_t at = (offset - kObjects) % sizeof(abi::RegionObject);
  return at >= offsetof(abi::RegionObject, account) &&
         in_account(at - offsetof(abi::RegionObject, account));
}

std::string name_of(size_t offset) {
  const auto row = [&](const char* what, size_t begin, size_t size) {
    return std::string(what) + "[" + std::to_string((offset - begin) / size) + "]+" +
           std::to_string((offset - begin) % size);
  };
  if (offset >= offsetof(abi::Region, slot))
    return row("slot", offsetof(abi::Region, slot), sizeof(abi::RegionSlot));
  if (offset >= offsetof(abi::Region, object))
    return row("object", offsetof(abi::Region, object), sizeof(abi::RegionObject));
  return "header+" + std::to_string(offset);
}

// ---- processes

[[gnu::noinline]] void switch_away() {
  Process& process = g_world.process[g_current];
  process.stack_end = static_cast<char*>(__builtin_frame_address(0)) - kRedZone;
  swapcontext(&process.context, &g_search);
}

// An operation ended: what led here no longer matters, but for what the process keeps.
void boundary() {
  if (g_undisturbed) return;
  Process& process = g_world.process[g_current];
  process.steps = 0;
  process.history = mix_bytes(++process.operations, &process.slice, sizeof process.slice);
}

void run_program(int index) {
  g_scenario->programs[static_cast<size_t>(index)](index);
  g_world.process[index].done = true;
  g_world.process[index].history = 1;
  switch_away();
}

void begin(int index) {
  ucontext_t& context = g_world.process[index].context;
  getcontext(&context);
  context.uc_stack.ss_sp = g_stack[index];
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, reinterpret_cast<void (*)()>(run_program), 1, index);
  g_world.process[index].stack_end = g_stack[index] + kStackBytes - 4096;
}

void start_slice(Process& process) {
  std::memset(static_cast<void*>(&process.slice), 0, sizeof process.slice);
  new (&process.slice) job::Slice();
  process.slice.mode();
  process.slice.add_device({}, 0);
}

void make_process(int index) {
  Process& process = g_world.process[index];
  process.pid = ++g_world.last_pid;
  process.image = 0x10 + process.pid;
  process.alive = true;
  process.object = -1;
  g_current = index;
  start_slice(process);
}

// Lets a process go on to its next access.
void advance(int index) {
  g_current = index;
  g_undisturbed = false;
  g_word = SIZE_MAX;
  swapcontext(&g_search, &g_world.process[index].context);
  g_undisturbed = true;
}

// ---- states

using Snapshot = std::vector<char>;

Snapshot take() {
  size_t size = sizeof g_world;
  for (int i = 0; i < kMaxProcesses; i++)
    size += static_cast<size_t>(g_stack[i] + kStackBytes - g_world.process[i].stack_end);
  Snapshot snapshot(size);
  char* to = snapshot.data();
  std::memcpy(to, static_cast<const void*>(&g_world), sizeof g_world);
  to += sizeof g_world;
  for (int i = 0; i < kMaxProcesses; i++) {
    const char* from = g_world.process[i].stack_end;
    const auto bytes = static_cast<size_t>(g_stack[i] + kStackBytes - from);
    std::memcpy(to, from, bytes);
    to += bytes;
  }
  return snapshot;
}

void restore(const Snapshot& snapshot) {
  const char* from = snapshot.data();
  std::memcpy(static_cast<void*>(&g_world), from, sizeof g_world);
  from += sizeof g_world;
  for (int i = 0; i < kMaxProcesses; i++) {
    char* to = g_stack[i] + (g_world.process[i].stack_end - g_stack[i]);
    const auto bytes = static_cast<size_t>(g_stack[i] + kStackBytes - to);
    std::memcpy(to, from, bytes);
    from += bytes;
  }
}

struct Key {
  uint64_t a, b;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  size_t operator()(const Key& key) const { return key.a; }
};

Key key_of_state() {
  const auto hash = [](uint64_t seed) {
    seed = mix_bytes(seed, &g_world.region, sizeof g_world.region);
    seed = mix(seed, g_world.clock_ns);
    seed = mix(seed, static_cast<uint64_t>(g_world.kills_left));
    if (g_world.pauses_left != kUnbounded)
      seed = mix(mix(seed, static_cast<uint64_t>(g_world.pauses_left)), g_world.last);
    for (const Process& process : g_world.process) {
      const uint64_t flags = process.alive | uint64_t{process.done} << 1;
      seed = mix(seed, flags | uint64_t{process.image} << 8);
      if (process.alive) seed = mix(mix(seed, process.history), process.held);
    }
    return mix(seed, uint64_t{g_world.object_holders} << 32 | g_world.object_units);
  };
  return {hash(1), hash(0x5bd1e9955bd1e995)};
}

// ---- what must always hold

uint64_t word(const std::stepped_atomic<uint64_t>& value) {
  uint64_t out;
  std::memcpy(&out, static_cast<const void*>(&value), sizeof out);
  return out;
}
uint64_t used() { return word(g_world.region.header.device[0].use) >> 32; }

uint32_t living() {
  uint32_t mask = 0;
  for (int i = 0; i < kMaxProcesses; i++) mask |= uint32_t{g_world.process[i].alive} << i;
  return mask;
}

uint64_t known_holdings() {
  uint64_t sum = 0;
  for (const Process& process : g_world.process) sum += process.alive ? process.held : 0;
  return sum + ((g_world.object_holders & living()) != 0 ? g_world.object_units : 0);
}

void check_always() {
  if (g_scenario->exact_limit && used() > g_scenario->limit)
    fail("the total is " + std::to_string(used()) + ", the limit " +
         std::to_string(g_scenario->limit));
  if (used() < known_holdings())
    fail("the total is " + std::to_string(used()) + ", but the living hold " +
         std::to_string(known_holdings()));
  for (Process& process : g_world.process) {
    if (!process.alive || process.slice.slot() < 0) continue;
    const abi::RegionSlot& slot = g_world.region.slot[process.slice.slot()];
    const abi::PackedOwner owner = word(slot.owner);
    if (policy::is_claim(owner) || policy::owner_pid(owner) != process.pid ||
        word(slot.image) != process.image)
      fail("process " + std::to_string(process.pid) + " lives and has lost its slot");
  }
}

void check_slot_at_end(const abi::RegionSlot& slot) {
  const uint32_t pid = policy::owner_pid(word(slot.owner));
  if (pid == 0 || pid == g_newcomer.pid) return;
  const uint64_t charged = word(slot.device[0].charge) >> 32;
  for (const Process& process : g_world.process) {
    if (!process.alive || process.pid != pid) continue;
    if (charged != process.held)
      fail("process " + std::to_string(pid) + " is charged " + std::to_string(charged) +
           " and holds " + std::to_string(process.held));
    return;
  }
  fail("a slot still belongs to the dead process " + std::to_string(pid));
}

// Nobody runs any more: a newcomer must find everything that the dead held, at once, and nothing
// else.
void check_end() {
  const uint64_t holdings = known_holdings(), limit = g_scenario->limit;
  const uint64_t rest = limit - std::min(holdings, limit);
  g_newcomer.pid = 1000;
  g_newcomer.image = 0x999;
  g_newcomer.alive = true;
  g_current = kNewcomer;
  start_slice(g_newcomer);
  if (rest > 0 && !g_newcomer.slice.reserve(0, rest * abi::kUnit))
    fail("a newcomer is refused " + std::to_string(rest) + " of " + std::to_string(limit) +
         " while the living hold " + std::to_string(holdings));
  g_newcomer.slice.wait_for_dead();
  g_newcomer.slice.wait_for_dead();
  if (used() != holdings + rest)
    fail("the total is " + std::to_string(used()) + " after the dead were taken back, expected " +
         std::to_string(holdings + rest));
  for (const abi::RegionSlot& slot : g_world.region.slot) check_slot_at_end(slot);
  if ((g_world.object_holders & living()) == 0 && word(g_world.region.object[0].key) != 0)
    fail("an object that nobody holds is still there");
  g_current = -1;
}

// ---- the search

struct Node {
  Snapshot state;
  int next = 0;  // 2 * process + (1: kill it)
  std::string how;
};

// Whether the process may run now, which may mean that the one before has to wait.
bool may_pause(int next) {
  const Process& last = g_world.process[g_world.last];
  if (g_world.pauses_left == kUnbounded || g_world.last == next || !last.alive || last.done)
    return true;
  return g_world.pauses_left-- > 0;
}

bool act(int action, std::string* how) {
  const int index = action / 2;
  Process& process = g_world.process[index];
  if (index >= static_cast<int>(g_scenario->programs.size()) || !process.alive) return false;
  if (action % 2 == 0) {
    if (process.done || !may_pause(index)) return false;
    g_world.last = index;
    advance(index);
    *how = "process " + std::to_string(process.pid) +
           (g_word == SIZE_MAX ? " ends" : " comes to " + name_of(g_word));
    return true;
  }
  if (g_world.kills_left == 0) return false;
  g_world.kills_left--;
  process.alive = false;
  process.stack_end = g_stack[index] + kStackBytes;
  *how = "process " + std::to_string(process.pid) + " is killed";
  return true;
}

bool all_rest() {
  for (size_t i = 0; i < g_scenario->programs.size(); i++)
    if (g_world.process[i].alive && !g_world.process[i].done) return false;
  return true;
}

void prepare(const Scenario& scenario, bool large) {
  std::memset(static_cast<void*>(&g_world), 0, sizeof g_world);
  g_scenario = &scenario;
  g_fault.clear();
  g_undisturbed = true;
  g_world.clock_ns = 1'000'000'000;
  g_world.kills_left = scenario.kills;
  g_world.pauses_left = large ? scenario.pauses_large : scenario.pauses;
  for (int i = 0; i < kMaxProcesses; i++) g_world.process[i].stack_end = g_stack[i] + kStackBytes;
  for (size_t i = 0; i < scenario.programs.size(); i++) make_process(static_cast<int>(i));
  if (scenario.setup) scenario.setup();
  for (size_t i = 0; i < scenario.programs.size(); i++)
    if (g_world.process[i].alive) begin(static_cast<int>(i));
}

}  // namespace

Process& current() { return g_current == kNewcomer ? g_newcomer : g_world.process[g_current]; }
uint64_t limit_units() { return g_scenario->limit; }
void fail(const std::string& text) {
  if (g_fault.empty()) g_fault = text;
}

bool step(const void* where, Access access) {
  const char* begin = reinterpret_cast<const char*>(&g_world.region);
  const auto offset = static_cast<size_t>(static_cast<const char*>(where) - begin);
  if (static_cast<const char*>(where) < begin || offset >= sizeof g_world.region) return true;
  if (is_statistic(offset)) return false;
  if (g_undisturbed) return true;
  learn(offset);
  if (!g_written[offset / 4]) {
    if (access == Access::kRead) return true;
    g_written[offset / 4] = true;
    g_begin_again = true;
  }
  if (++current().steps > kMostSteps)
    fail("process " + std::to_string(current().pid) + " does not come to an end");
  g_word = offset;
  switch_away();
  return true;
}

void learn(uint64_t value) {
  if (!g_undisturbed)
    g_world.process[g_current].history = mix(g_world.process[g_current].history, value + 3);
}

void reserve(int index, uint64_t units) {
  g_current = index;
  if (g_world.process[index].slice.reserve(0, units * abi::kUnit))
    g_world.process[index].held += units;
  boundary();
}

void release(int index, uint64_t units) {
  Process& process = g_world.process[index];
  if (process.held < units) return;
  g_current = index;
  process.held -= units;
  process.slice.release(0, units * abi::kUnit);
  boundary();
}

void look_for_dead(int index) {
  g_current = index;
  g_world.process[index].slice.wait_for_dead();
  boundary();
}

void export_all(int index) {
  Process& process = g_world.process[index];
  if (process.held == 0) return;
  g_current = index;
  process.object = process.slice.make_object(kKey, 0, process.held * abi::kUnit);
  if (process.object >= 0) {
    g_world.object_units = process.held;
    g_world.object_holders = uint32_t{1} << index;
    process.held = 0;
  }
  boundary();
}

void import(int index) {
  Process& process = g_world.process[index];
  g_current = index;
  process.object = process.slice.hold_object(kKey);
  if (process.object >= 0) g_world.object_holders |= uint32_t{1} << index;
  boundary();
}

void drop(int index) {
  Process& process = g_world.process[index];
  if (process.object < 0) return;
  g_current = index;
  g_world.object_holders &= ~(uint32_t{1} << index);
  process.slice.drop_object(process.object);
  process.object = -1;
  boundary();
}

void exec(int index) {
  Process& process = g_world.process[index];
  g_current = index;
  process.image += 0x100;
  process.held = 0;
  process.object = -1;
  g_world.object_holders &= ~(uint32_t{1} << index);
  start_slice(process);
  boundary();
}

void die(int index) { g_world.process[index].alive = false; }

Result search_once(const Scenario& scenario, bool large, uint64_t most_states) {
  prepare(scenario, large);
  Result result;
  std::unordered_set<Key, KeyHash> seen;
  std::vector<Node> path;
  const auto enter = [&](std::string how) {
    check_always();
    if (g_fault.empty() && !seen.insert(key_of_state()).second) return;
    path.push_back({take(), 0, std::move(how)});
    if (g_fault.empty() && all_rest()) {
      result.ends++;
      check_end();
      restore(path.back().state);
    }
  };
  enter("start");
  while (!path.empty() && g_fault.empty() && !g_begin_again) {
    Node& top = path.back();
    if (top.next == 2 * kMaxProcesses) {
      path.pop_back();
      continue;
    }
    restore(top.state);
    std::string how;
    if (act(top.next++, &how)) enter(std::move(how));
    if (seen.size() > most_states) fail("more than " + std::to_string(most_states) + " states");
  }
  result.states = seen.size();
  result.fault = g_fault;
  for (const Node& node : path) result.trace += "  " + node.how + "\n";
  return result;
}

Result search(const Scenario& scenario, bool large, uint64_t most_states) {
  g_written.reset();
  for (;;) {
    g_begin_again = false;
    Result result = search_once(scenario, large, most_states);
    if (!g_begin_again || !result.fault.empty()) return result;
  }
}

}  // namespace softmig::model
