// Streams, events, graphs: the structures behind their handles.
#pragma once

#include "driver/capture.h"
#include "driver/core.h"

namespace softmig::sim {

struct Green {
  static constexpr Mark kMark = kGreen;
  Mark mark = kGreen;
  Context* context = nullptr;
  unsigned int multiprocessors = 0;
  uint64_t id = 0;
};

struct Stream {
  static constexpr Mark kMark = kStream;
  Mark mark = kStream;
  Context* context = nullptr;
  Green* green = nullptr;
  unsigned int flags = 0;
  int priority = 0;
  uint64_t id = 0;
  Ticket last;             // its last operation
  uint64_t lanes_of = 0;   // Context::queues_opened at that time
  Ticket followed;         // the last operation of the legacy stream that it waits for
  uint64_t host_task = 0;  // the last host function, 0 for none
  Capture* capture = nullptr;
  std::vector<Node*> tips;  // what the next captured node depends on
};

// The legacy stream and this one wait for each other.
inline bool is_blocking(const Stream& stream) {
  return (stream.flags & CU_STREAM_NON_BLOCKING) == 0;
}

struct Event {
  static constexpr Mark kMark = kEvent;
  Mark mark = kEvent;
  Context* context = nullptr;
  unsigned int flags = 0;
  bool recorded = false;
  Ticket ticket;
  uint64_t time = 0;  // when it was done, once that is known (CLOCK_MONOTONIC, ns)
  uint64_t host_task = 0;
  Capture* capture = nullptr;  // recorded into this one
  uint64_t capture_id = 0;
  std::vector<Node*> tips;
};

struct Function {
  static constexpr Mark kMark = kFunction;
  Mark mark = kFunction;
  Module* module = nullptr;
  std::string name;
  unsigned int parameter_bytes = 4;  // of the first one
  unsigned int parameter_count = 1;
  bool uses_heap = false;
  bool uses_printf = false;
  int max_dynamic_shared = 49152;
  int block[3] = {1, 1, 1};               // cuFuncSetBlockShape
  std::vector<unsigned char> parameters;  // cuParamSet*
};

// Host functions in streams (host_function.cc).
uint64_t add_host_task(CUhostFn fn, void* data, const Ticket& after);
void wait_for_host_task(Call& call, uint64_t task);
void wait_for_host_tasks(Call& call);
bool is_host_task_done(uint64_t task);

// What a kernel leaves in memory: it adds to a number.
struct Sum {
  uint64_t address = 0;  // 0: nothing
  uint64_t value = 0;
};

// How long a kernel takes alone, in ns, from its name and first parameter.
uint64_t kernel_duration(const Function& function, void** params, void** extra);
Sum kernel_sum(const Function& function, uint64_t blocks, void** params, void** extra);
// Adds it, at once.
void apply(const Sum& sum);

// The function that a CUfunction or CUkernel handle stands for, in the given context.
Function* find_function(CUfunction handle, Context* context, CUresult* code);

}  // namespace softmig::sim
