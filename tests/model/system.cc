// What the modelled processes see of the operating system, in place of src/sys, and of the parts of
// src/job that read files.
#include "job/board.h"
#include "job/extra.h"
#include "job/log.h"
#include "job/region.h"
#include "search.h"
#include "sys/clock.h"
#include "sys/memory.h"
#include "sys/proc.h"
#include "sys/self.h"
#include "world.h"

namespace softmig::sys {

using model::g_world;

int pid() { return static_cast<int>(model::current().pid); }
uint32_t effective_uid() { return 1000; }
void yield() { model::fail("a process waits for another one"); }
ErrnoGuard::ErrnoGuard() : saved_(0) {}
ErrnoGuard::~ErrnoGuard() {}
SignalBlock::SignalBlock() {}
SignalBlock::~SignalBlock() {}

// The time stands still but for those who sleep.
uint64_t monotonic_ns() {
  model::learn(g_world.clock_ns);
  return g_world.clock_ns;
}
uint64_t coarse_ns() { return monotonic_ns(); }
uint64_t thread_cpu_ns() { return monotonic_ns(); }
void sleep_ns(uint64_t duration) { g_world.clock_ns += duration; }

ProcessState own_state() {
  return {.exists = true, .start_ticks = model::kStart, .image = model::current().image};
}
uint64_t own_start_ticks() { return model::kStart; }
uint64_t pid_namespace() { return 1; }
uint64_t time_namespace() { return 1; }

bool is_gone(const char*, uint32_t pid, uint64_t start_ticks, uint64_t image) {
  model::step(&g_world.region, model::Access::kWrite);  // others may run before the answer
  bool gone = true;
  for (const model::Process& process : g_world.process) {
    if (process.pid != pid || !process.alive) continue;
    gone = (image != 0 && process.image != image) ||
           (start_ticks != 0 && start_ticks != model::kStart);
  }
  model::learn(gone);
  return gone;
}

bool is_backed(const void*) { return true; }

ForkMark* make_fork_mark() {
  static ForkMark mark{1, 0};  // nobody forks here
  return &mark;
}
void Mutex::wait() { model::fail("a process waits for its own lock"); }
void Mutex::wake() {}

}  // namespace softmig::sys

namespace softmig::job {

void load_config(const Places&, Config* config) {
  config->source = Source::kFile;
  config->settings.memory.general = model::limit_units() * abi::kUnit;
}
bool config_changed(const Places&, const Config&) { return false; }
bool reload_config(const Places&, Config*) { return false; }
void open_region(const Places&, const Config&, OpenRegion* region) {
  region->map = &model::g_world.region;
  region->shared = true;
}
uint64_t device_key(const policy::Uuid&) { return 77; }
bool read_extra_page(const char*, abi::ExtraPage*) { return false; }
void claim_slots(const char*, uint64_t, uint32_t, uint64_t) {}
uint32_t open_slots(const char*, uint64_t, uint32_t, uint32_t, uint64_t) { return 0; }
void tell_turn(const char*, uint64_t, const policy::Notice&) {}
void read_turns(const char*, uint64_t, uint32_t, uint32_t, policy::TurnBoard&) {}
void log_configure(const Places&, const Config&) {}
bool log_enabled(LogLevel) { return false; }
void log(LogLevel, const char*, ...) {}
void log_after_fork() {}

}  // namespace softmig::job
