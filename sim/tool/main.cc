// softmig-sim show    what the simulated GPUs hold, read from their state file
// softmig-sim busy    how long each device and each of its processes has run kernels so far
// softmig-sim reset   forgets everything: the next user makes a new state from SOFTMIG_SIM
#include <glob.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "state/identity.h"
#include "state/objects.h"
#include "state/settings.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

double mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

void show_processes(const State& state, int device) {
  const uint32_t end = state.file().processes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    const ProcessRow& row = state.file().processes[i];
    if (row.state.load(std::memory_order_acquire) != RowState::kLive) continue;
    const Usage& usage = row.usage[device];
    const uint64_t listed =
        usage.listed.load(std::memory_order_relaxed) + listed_object_bytes(state, i, device);
    const uint64_t unlisted = usage.unlisted.load(std::memory_order_relaxed);
    if (listed + unlisted == 0) continue;
    std::printf("  process %d uid %u contexts %u listed %.3f beside %.3f MiB  %s\n", row.pid,
                row.uid, usage.contexts.load(std::memory_order_relaxed), mib(listed), mib(unlisted),
                row.name);
  }
}

int show(State* state) {
  const State::Guard guard(state);
  state->sweep(State::Care::kThorough);
  std::printf(
      "state %s, recovered %llu times\n", state->path().c_str(),
      static_cast<unsigned long long>(state->file().recoveries.load(std::memory_order_relaxed)));
  for (int i = 0; i < state->device_count(); ++i) {
    const DeviceRow& row = state->file().devices[i];
    std::printf("device %d %s %s %s\n", i, uuid_text(row).c_str(), bus_text(row).c_str(), row.name);
    std::printf("  total %.3f reserved %.3f used %.3f free %.3f MiB\n", mib(row.total),
                mib(row.reserved), mib(row.used.load(std::memory_order_relaxed)),
                mib(state->available(i)));
    show_processes(*state, i);
  }
  return 0;
}

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

// One line for each device and for each process that ran kernels there; processes that ended as
// long as nobody has their row. at: now (CLOCK_MONOTONIC); busy: some kernel ran; work: what the
// kernels that ended take alone.
int busy(State* state) {
  const State::Guard guard(state);
  state->sweep(State::Care::kThorough);
  const uint64_t now = state->catch_up_figures();
  const StateFile& file = state->file();
  const uint32_t end = file.processes_end.load(std::memory_order_acquire);
  for (uint32_t d = 0; d < file.device_count; ++d) {
    const Engine& engine = file.devices[d].engine;
    std::printf("device %u at_ms %.3f busy_ms %.3f switches %llu\n", d, ms(now), ms(engine.busy_ns),
                static_cast<unsigned long long>(engine.switches));
    for (uint32_t i = 0; i < end; ++i) {
      const ProcessRow& row = file.processes[i];
      const Usage& usage = row.usage[d];
      if (usage.busy_ns == 0 && usage.kernels == 0) continue;
      const bool live = row.state.load(std::memory_order_acquire) == RowState::kLive;
      std::printf("process %d device %u busy_ms %.3f work_ms %.3f kernels %llu %s %s\n", row.pid, d,
                  ms(usage.busy_ns), ms(usage.work_ns),
                  static_cast<unsigned long long>(usage.kernels), live ? "live" : "ended",
                  row.name);
    }
  }
  return 0;
}

int reset() {
  const std::string path = state_path();
  glob_t contents{};
  if (glob((path + ".data.*").c_str(), 0, nullptr, &contents) == 0) {
    for (size_t i = 0; i < contents.gl_pathc; ++i) unlink(contents.gl_pathv[i]);
  }
  globfree(&contents);
  unlink(path.c_str());
  return 0;
}

}  // namespace
}  // namespace softmig::sim

int main(int argc, char** argv) {
  using namespace softmig::sim;
  const std::string command = argc == 2 ? argv[1] : "";
  if (command == "reset") return reset();
  if (command != "show" && command != "busy") {
    std::fprintf(stderr, "usage: softmig-sim show|busy|reset\n");
    return 2;
  }
  std::string error;
  State* state = State::open(&error);
  if (state == nullptr) {
    std::fprintf(stderr, "softmig-sim: %s\n", error.c_str());
    return 1;
  }
  return command == "show" ? show(state) : busy(state);
}
