#include "state/process.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "state/liveness.h"

namespace softmig::sim {
namespace {

uint64_t realtime_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void read_program_name(char (&name)[64]) {
  const ssize_t n = readlink("/proc/self/exe", name, sizeof name - 1);
  name[n > 0 ? n : 0] = '\0';
}

void clear(Usage* usage, bool attached) {
  usage->listed.store(0, std::memory_order_relaxed);
  usage->unlisted.store(0, std::memory_order_relaxed);
  usage->contexts.store(0, std::memory_order_relaxed);
  usage->manages.store(0, std::memory_order_relaxed);
  usage->listed_high.store(0, std::memory_order_relaxed);
  usage->busy_ns = usage->work_ns = usage->kernels = 0;
  usage->activity = Activity{};
  usage->attached.store(attached, std::memory_order_relaxed);
}

int find_row(State* state) {
  StateFile& file = state->file();
  const uint32_t end = file.processes_end.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < end; ++i) {
    if (file.processes[i].state.load(std::memory_order_relaxed) == RowState::kFree &&
        hold_image_lock(*state, i)) {
      return static_cast<int>(i);
    }
  }
  if (end == kMaxProcesses || !hold_image_lock(*state, end)) return -1;
  file.processes_end.store(end + 1, std::memory_order_release);
  return static_cast<int>(end);
}

}  // namespace

Process* Process::enter(State* state, uint32_t devices) {
  const State::Guard guard(state);
  state->sweep(State::Care::kThorough);
  const int index = find_row(state);
  if (index < 0) return nullptr;
  ProcessRow& row = state->file().processes[index];
  const uint32_t generation = row.generation.fetch_add(1, std::memory_order_relaxed) + 1;
  row.pid = getpid();
  row.uid = geteuid();
  row.pid_namespace = own_pid_namespace();
  row.start_time = process_start_time(row.pid);
  row.since_ns = realtime_ns();
  read_program_name(row.name);
  for (int d = 0; d < state->device_count(); ++d) clear(&row.usage[d], (devices >> d & 1) != 0);
  row.state.store(RowState::kLive, std::memory_order_release);
  state->recount();
  return new Process(state, static_cast<uint32_t>(index), generation);
}

bool Process::take_locked(int device, uint64_t listed, uint64_t unlisted) {
  if (!state_->take(device, listed + unlisted)) return false;
  Usage& mine = usage(device);
  const uint64_t now = mine.listed.load(std::memory_order_relaxed) + listed;
  mine.listed.store(now, std::memory_order_relaxed);
  mine.unlisted.fetch_add(unlisted, std::memory_order_relaxed);
  if (now > mine.listed_high.load(std::memory_order_relaxed))
    mine.listed_high.store(now, std::memory_order_relaxed);
  return true;
}

void Process::give_locked(int device, uint64_t listed, uint64_t unlisted) {
  usage(device).listed.fetch_sub(listed, std::memory_order_relaxed);
  usage(device).unlisted.fetch_sub(unlisted, std::memory_order_relaxed);
  state_->give(device, listed + unlisted);
}

bool Process::take(int device, uint64_t listed, uint64_t unlisted) {
  const State::Guard guard(state_);
  return take_locked(device, listed, unlisted);
}

void Process::give(int device, uint64_t listed, uint64_t unlisted) {
  const State::Guard guard(state_);
  give_locked(device, listed, unlisted);
}

void Process::use_managed(int device) {
  const State::Guard guard(state_);
  const StateFile& file = state_->file();
  const uint32_t end = file.processes_end.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < end; ++i) {
    const ProcessRow& row = file.processes[i];
    if (row.state.load(std::memory_order_relaxed) == RowState::kLive &&
        row.usage[device].manages.load(std::memory_order_relaxed) != 0) {
      return;
    }
  }
  if (take_locked(device, 0, file.managed)) usage(device).manages.store(1);
}

bool Process::take_context(int device) {
  const State::Guard guard(state_);
  if (!take_locked(device, context_listed(), context_unlisted())) return false;
  usage(device).contexts.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void Process::give_context(int device) {
  const State::Guard guard(state_);
  usage(device).contexts.fetch_sub(1, std::memory_order_relaxed);
  give_locked(device, context_listed(), context_unlisted());
}

}  // namespace softmig::sim
