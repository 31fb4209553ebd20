// chaos_stepper [--kills N] [--long N] [--only OPERATION] [--seed N]
//
// A child process makes one operation of the region protocol with the objects that ship, one
// machine instruction at a time (ptrace), and is killed with SIGKILL after instruction n; n runs
// over the whole operation. After every kill another process must be granted, by its first request,
// all that the living do not hold; the ledger must be exact to the unit; nothing of the dead may
// stay behind and nothing of the living may be gone.
//
// A first run counts the instructions of an operation and notes after which of them the region
// looks different. If N allows it every instruction gets its kill; else those around the changes,
// and others evenly between them. One line for each operation; exit status 77 where ptrace is not
// allowed.
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "job/slice.h"
#include "policy/ledger.h"
#include "stage.h"

namespace softmig::chaos {
namespace {

constexpr uint64_t kPage = 1 << 20, kLimit = 64 * kPage, kMine = 3 * kPage, kSleepers = 5 * kPage;
constexpr uint64_t kSharedKey = 0xabc, kOtherKey = 0xdef;
constexpr policy::Uuid kGpu = {.byte = {1, 2, 3}};
constexpr int kExitSkipped = 77;
constexpr uint32_t kLong = 10000;  // instructions
constexpr double kMostMs = 1000;   // of a request after a kill; the machine may be busy

job::Slice& slice() { return job::slice(); }
abi::Region& region() {
  return *reinterpret_cast<abi::Region*>(
      reinterpret_cast<char*>(slice().account(0)) - offsetof(abi::RegionSlot, device) -
      static_cast<size_t>(slice().slot()) * sizeof(abi::RegionSlot) - offsetof(abi::Region, slot));
}
uint64_t used() { return policy::used_units(region().header.device[0].use.load()) * abi::kUnit; }

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// ---- what is done, in the child

struct Operation {
  const char* name;
  std::function<void()> corpse;  // in a process that dies before the child begins; may be empty
  std::function<void()> prepare;
  std::function<void()> act;
  bool by_exec = false;  // act in a new image of the process
};

int g_object = -1;

void reserve_some() { slice().reserve(0, 8 * kPage); }

void export_some() {
  reserve_some();
  g_object = slice().make_object(kOtherKey, 0, 8 * kPage);
}

// Dead between the second and the third step of a change, after others changed the total.
void die_in_a_change() {
  reserve_some();
  auto& charge = slice().account(0)->charge;
  const uint64_t before = charge.load();
  slice().charge(0, kPage);
  charge.store(before);
}

std::vector<Operation> operations() {
  const auto nothing = [] {};
  return {
      {"join", {}, nothing, reserve_some},
      {"reserve", {}, reserve_some, [] { slice().reserve(0, 4 * kPage); }},
      {"commit", {}, reserve_some, [] { slice().charge(0, kPage); }},
      {"release", {}, reserve_some, [] { slice().release(0, 8 * kPage); }},
      {"export", {}, reserve_some, [] { slice().make_object(kOtherKey, 0, 8 * kPage); }},
      {"import", {}, reserve_some, [] { slice().hold_object(kSharedKey); }},
      {"drop", {}, export_some, [] { slice().drop_object(g_object); }},
      {"refused", reserve_some, reserve_some, [] { slice().reserve(0, kLimit); }},
      {"reclaim", export_some, reserve_some, [] { slice().wait_for_dead(); }},
      {"reclaim a half change", die_in_a_change, reserve_some, [] { slice().wait_for_dead(); }},
      {"join after exec", {}, export_some, reserve_some, true},
  };
}

// A child as a hook finds it: that is where a fork is noticed.
pid_t fork_process() {
  const pid_t pid = fork();
  if (pid == 0) slice().mode();
  return pid;
}

void marker() { kill(getpid(), SIGSTOP); }

[[noreturn]] void run_child(const Operation& operation) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kExitSkipped);
  operation.prepare();
  if (operation.by_exec) {
    execl("/proc/self/exe", "chaos_stepper", "--after-exec", operation.name, nullptr);
    _exit(127);
  }
  marker();
  operation.act();
  marker();
  _exit(0);
}

int run_after_exec(const char* name) {
  slice().mode();
  slice().add_device(kGpu, 0);
  marker();
  for (const Operation& operation : operations())
    if (std::strcmp(operation.name, name) == 0) operation.act();
  marker();
  return 0;
}

// ---- the child, seen from outside

class Victim {
 public:
  explicit Victim(const Operation& operation) {
    pid_ = fork_process();
    if (pid_ == 0) run_child(operation);
    stopped_ = wait_for_marker();
  }
  ~Victim() { kill_and_reap(); }
  bool at_begin() const { return stopped_; }
  // One instruction. False: the operation is over.
  bool step() {
    if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) return false;
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_ || !WIFSTOPPED(status)) return false;
    return WSTOPSIG(status) == SIGTRAP;
  }
  // Dead afterwards; a zombie until kill_and_reap.
  void kill_it() {
    kill(pid_, SIGKILL);
    siginfo_t info{};
    while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 &&
           errno == EINTR) {
    }
  }
  void kill_and_reap() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    int status = 0;
    while (waitpid(pid_, &status, 0) == pid_ && !WIFEXITED(status) && !WIFSIGNALED(status)) {
    }
    pid_ = -1;
  }

 private:
  // The trap of an exec is passed over.
  bool wait_for_marker() {
    int status = 0;
    while (waitpid(pid_, &status, 0) == pid_ && WIFSTOPPED(status)) {
      if (WSTOPSIG(status) == SIGSTOP) return true;
      ptrace(PTRACE_CONT, pid_, nullptr, nullptr);
    }
    pid_ = -1;
    return false;
  }
  pid_t pid_ = -1;
  bool stopped_ = false;
};

void make_corpse(const Operation& operation) {
  if (!operation.corpse) return;
  const pid_t pid = fork_process();
  if (pid == 0) {
    operation.corpse();
    kill(getpid(), SIGKILL);
  }
  waitpid(pid, nullptr, 0);
}

// ---- what must hold

// The part of the region that these few processes can change.
struct Picture {
  char header[sizeof(abi::RegionHeader)];
  char objects[4 * sizeof(abi::RegionObject)];
  char slots[8 * sizeof(abi::RegionSlot)];
  void take() {
    std::memcpy(header, static_cast<const void*>(&region().header), sizeof header);
    std::memcpy(objects, static_cast<const void*>(region().object), sizeof objects);
    std::memcpy(slots, static_cast<const void*>(region().slot), sizeof slots);
  }
  bool operator==(const Picture& other) const {
    return std::memcmp(this, &other, sizeof other) == 0;
  }
};

std::string stays_behind(pid_t sleeper) {
  const uint32_t high = region().header.high_water.load();
  for (uint32_t i = 0; i < high; i++) {
    const abi::RegionSlot& slot = region().slot[i];
    const auto owner = static_cast<pid_t>(policy::owner_pid(slot.owner.load()));
    const uint64_t held = policy::charged_units(slot.device[0].charge.load()) * abi::kUnit;
    const uint64_t expected = owner == getpid() ? kMine : owner == sleeper ? kSleepers : 0;
    if (owner != 0 && expected == 0) return "slot " + std::to_string(i) + " is still taken";
    if (held != expected)
      return "slot " + std::to_string(i) + " is charged " + std::to_string(held) + ", not " +
             std::to_string(expected);
  }
  for (uint32_t i = 0; i < abi::kMaxObjects; i++) {
    const bool shared = static_cast<int>(i) == g_object;
    if ((region().object[i].key.load() != 0) != shared)
      return "object " + std::to_string(i) + (shared ? " is gone" : " is still there");
    if (shared && policy::object_units(region(), i) * abi::kUnit != kPage)
      return "the object lost its charge";
    int holders = 0;
    for (const auto& holder : region().object[i].holder) holders += holder.load() != 0;
    if (shared && holders != 1) return "the object has " + std::to_string(holders) + " holders";
  }
  return {};
}

// First by the newcomer or by this process, then to the unit.
std::string check(pid_t sleeper, bool by_newcomer, double* slowest_ms) {
  const uint64_t held = kMine + kSleepers + kPage;
  const double start = now_ms();
  bool granted;
  if (by_newcomer) {
    const pid_t pid = fork_process();
    if (pid == 0) _exit(slice().reserve(0, kLimit - held) ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, 0);
    granted = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  } else {
    granted = slice().reserve(0, kLimit - held);
    if (granted && used() != kLimit) return "the total is " + std::to_string(used());
    if (granted) slice().release(0, kLimit - held);
  }
  *slowest_ms = std::max(*slowest_ms, now_ms() - start);
  if (!granted) return "the first request after the kill was refused";
  if (now_ms() - start > kMostMs) return "the request took " + std::to_string(now_ms() - start);
  slice().wait_for_dead();  // a slot without memory is in nobody's way until somebody looks
  if (used() != held) return "the total is " + std::to_string(used());
  return stays_behind(sleeper);
}

// ---- the plan

struct Options {
  uint32_t kills = 40, long_kills = 10, seed = 1;
  std::string only;
};

struct Plan {
  uint32_t length = 0;            // instructions of the operation
  std::vector<uint32_t> changes;  // those after which the region looked different
};

bool measure(const Operation& operation, Plan* plan) {
  make_corpse(operation);
  Victim victim(operation);
  if (!victim.at_begin()) return false;
  static Picture before, after;
  before.take();
  while (victim.step()) {
    plan->length++;
    after.take();
    if (after == before) continue;
    plan->changes.push_back(plan->length);
    before = after;
  }
  return plan->length > 0;
}

std::set<uint32_t> choose(const Plan& plan, uint32_t kills, std::mt19937& random) {
  std::set<uint32_t> chosen;
  if (plan.length <= kills) {
    for (uint32_t n = 1; n <= plan.length; n++) chosen.insert(n);
    return chosen;
  }
  for (const uint32_t n : plan.changes) {
    if (chosen.size() >= kills / 2) break;
    chosen.insert(n);
    if (n > 1) chosen.insert(n - 1);
  }
  const double step = static_cast<double>(plan.length) / (kills - chosen.size());
  for (double at = random() % 100 / 100.0 * step; at < plan.length && chosen.size() < kills;
       at += step)
    chosen.insert(1 + static_cast<uint32_t>(at));
  return chosen;
}

class Chaos {
 public:
  Chaos(uint32_t seed, pid_t sleeper) : random_(seed), sleeper_(sleeper) {}

  bool run(const Operation& operation, const Options& options) {
    Plan plan;
    if (!measure(operation, &plan)) return broken(operation, 0, "it could not be stepped");
    const double start = now_ms();
    double slowest = 0;
    const std::set<uint32_t> chosen =
        choose(plan, plan.length > kLong ? options.long_kills : options.kills, random_);
    for (const uint32_t n : chosen) {
      const std::string fault = kill_at(operation, n, &slowest);
      if (!fault.empty()) return broken(operation, n, fault);
      done_++;
    }
    std::printf(
        "%-24s %6u instructions, %3zu change the region: %5zu kills, slowest request %.1f ms,"
        " %.0f s\n",
        operation.name, plan.length, plan.changes.size(), chosen.size(), slowest,
        (now_ms() - start) / 1000);
    std::fflush(stdout);
    return true;
  }
  uint32_t done() const { return done_; }

 private:
  std::string kill_at(const Operation& operation, uint32_t n, double* slowest) {
    make_corpse(operation);
    Victim victim(operation);
    if (!victim.at_begin()) return "the child did not start";
    for (uint32_t i = 0; i < n && victim.step(); i++) {
    }
    // Somebody else's change between the kill and what was before it overwrites the tag in the
    // total.
    const unsigned how = random_();
    for (unsigned i = 0; i < how % 3; i++) {
      slice().charge(0, kPage);
      slice().release(0, kPage);
    }
    victim.kill_it();
    if (how / 4 % 2 == 0) victim.kill_and_reap();
    return check(sleeper_, how / 8 % 8 == 0, slowest);
  }
  bool broken(const Operation& operation, uint32_t n, const std::string& fault) {
    std::printf("%s, killed after instruction %u: %s\n", operation.name, n, fault.c_str());
    return false;
  }

  std::mt19937 random_;
  pid_t sleeper_;
  uint32_t done_ = 0;
};

bool can_trace() {
  const pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
    marker();
    _exit(0);
  }
  int status = 0;
  const bool stopped = waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) &&
                       ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) == 0 &&
                       waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return stopped;
}

// Holds memory all the while.
pid_t start_sleeper() {
  int ready[2];
  if (pipe(ready) != 0) return -1;
  const pid_t pid = fork_process();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const char word = slice().reserve(0, kSleepers) ? 'y' : 'n';
    if (write(ready[1], &word, 1) == 1)
      for (;;) pause();
    _exit(1);
  }
  char word = 0;
  const bool good = read(ready[0], &word, 1) == 1 && word == 'y';
  close(ready[0]);
  close(ready[1]);
  return good ? pid : -1;
}

int run(const Options& options) {
  if (!can_trace()) {
    std::printf("SKIPPED: ptrace is not allowed here\n");
    return kExitSkipped;
  }
  const OwnSlice place("chaos", "64M");
  bool good = slice().mode() == job::Mode::kActive && slice().add_device(kGpu, 0) == 0 &&
              slice().reserve(0, kMine) && slice().memory(0).limit == kLimit;
  const pid_t sleeper = good ? start_sleeper() : -1;
  good = good && sleeper > 0 && slice().reserve(0, kPage);
  if (good) g_object = slice().make_object(kSharedKey, 0, kPage);
  if (!good || g_object < 0) std::printf("the slice could not be set up\n");
  good = good && g_object >= 0;
  Chaos chaos(options.seed, sleeper);
  std::vector<Operation> wanted;
  for (Operation& operation : operations())
    if (options.only.empty() || options.only == operation.name) wanted.push_back(operation);
  for (const Operation& operation : wanted) good = good && chaos.run(operation, options);
  if (sleeper > 0) {
    kill(sleeper, SIGKILL);
    waitpid(sleeper, nullptr, 0);
  }
  std::printf("%u kills, %s\n", chaos.done(),
              good ? "no byte lost or invented, no hang" : "BROKEN");
  return good && chaos.done() > 0 ? 0 : 1;
}

}  // namespace
}  // namespace softmig::chaos

int main(int argc, char** argv) {
  using namespace softmig::chaos;
  if (argc == 3 && std::strcmp(argv[1], "--after-exec") == 0) return run_after_exec(argv[2]);
  Options options;
  const auto is_operation = [&options](std::string_view name) {
    options.only = name;
    const std::vector<Operation> all = operations();
    return std::any_of(all.begin(), all.end(), [&](const auto& one) { return one.name == name; });
  };
  read_options(argc, argv, "chaos_stepper [--kills N] [--long N] [--only OPERATION] [--seed N]",
               {number_option("--kills", &options.kills),
                number_option("--long", &options.long_kills),
                number_option("--seed", &options.seed),
                {"--only", is_operation}});
  return run(options);
}
