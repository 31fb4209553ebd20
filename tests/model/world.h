// The world that the search walks through: one shared region, a few processes that run the real
// src/job/slice.cc and src/policy/ledger.cc on stacks of their own, and what they believe to hold.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "abi/region.h"
#include "job/slice.h"

namespace softmig::model {

inline constexpr int kMaxProcesses = 3;
inline constexpr int kUnbounded = -1;
inline constexpr uint64_t kKey = 7;  // of the one exported object

// Amounts are units of abi::kUnit.
struct Process {
  job::Slice slice;
  uint32_t pid;
  uint64_t image;
  bool alive, done;
  uint32_t steps;    // since its last operation began
  uint64_t history;  // of everything that it learnt since its last operation ended
  uint64_t operations;
  uint64_t held;  // what it was granted and has not begun to give back
  int object;     // that it holds, -1 if none
  ucontext_t context;
  const char* stack_end;  // what of its stack is in use begins here
};

struct World {
  abi::Region region;
  uint64_t clock_ns;
  int kills_left, pauses_left;
  int last;  // the process that ran
  uint64_t object_units;
  uint32_t object_holders;  // processes, one bit each, that were told that they hold it
  uint32_t last_pid;
  Process process[kMaxProcesses];
};
extern World g_world;

// A process's program: operations by index of the process.
using Program = std::function<void(int)>;

struct Scenario {
  const char* name;
  uint64_t limit;               // units, of the whole job
  int kills;                    // at most so many processes die
  bool exact_limit;             // the total may never pass it (an export counts twice for a moment)
  std::function<void()> setup;  // runs undisturbed
  std::vector<Program> programs;
  // How often a process may be stopped in favour of another one that was not at its turn; deaths do
  // not count. What ctest runs has the first bound, `--large` the second.
  int pauses = kUnbounded, pauses_large = kUnbounded;
};

// What programs are made of.
void reserve(int process, uint64_t units);
void release(int process, uint64_t units);
void look_for_dead(int process);
void export_all(int process);
void import(int process);
void drop(int process);
void exec(int process);
// For setups: dies here.
void die(int process);

struct Result {
  uint64_t states = 0, ends = 0;
  std::string fault;  // empty: none was found
  std::string trace;  // how to get there
};
Result search(const Scenario& scenario, bool large, uint64_t most_states);

}  // namespace softmig::model
