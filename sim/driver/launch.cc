// Kernel launches. A kernel computes nothing; it takes time. How much says its name:
//   spin_us, spin_ns, spin_ms   as many units as its first parameter says
//   softmig_work                as many ns as its first parameter says
//   await_flag                  until the 32-bit number at its first parameter is at least its
//                               second
//   nccl_meet                   until the number at its second parameter is at least its third,
//                               which it writes to its first one when it begins; then as many ns as
//                               its fourth says
//   any other                   the `kernel` setting of the state file
// That is what it takes where it need not share; how much of the device it needs says its grid.
// Two leave something in memory: softmig_work adds to the 64-bit number at its second parameter, at
// the call, what the kernel of that name in bench/share/kernel.h adds; raise_flag writes its second
// parameter to the 32-bit number at its first one, when it ends.
#include <algorithm>
#include <cstring>

#include "driver/graph.h"
#include "driver/objects.h"
#include "driver/signal.h"

namespace softmig::sim {
namespace {

constexpr unsigned int kMostThreads = 1024;

struct Shape {
  unsigned int grid[3];
  unsigned int block[3];
  unsigned int shared_bytes;
};

bool is_good(const Shape& shape) {
  const uint64_t threads = uint64_t{shape.block[0]} * shape.block[1] * shape.block[2];
  const bool grid = shape.grid[0] != 0 && shape.grid[1] != 0 && shape.grid[2] != 0 &&
                    shape.grid[0] <= 0x7fffffff && shape.grid[1] <= 65535 && shape.grid[2] <= 65535;
  return grid && threads != 0 && threads <= kMostThreads && shape.block[2] <= 64;
}

uint64_t block_count(const unsigned int (&grid)[3]) {
  return uint64_t{grid[0]} * grid[1] * grid[2];
}

// The first launch of a kernel that uses the heap or printf takes what their limits say.
bool take_for_kernel(Context* context, const Function& function) {
  Limits& limits = context->limits;
  if (function.uses_heap && !limits.heap_taken) {
    if (!take_for_context(context, round_up(limits.heap, kPage))) return false;
    limits.heap_taken = true;
  }
  if (function.uses_printf && !limits.printf_taken) {
    if (!take_for_context(context, round_up(limits.printf_fifo, kPage))) return false;
    limits.printf_taken = true;
  }
  return true;
}

// The first two parameters of a kernel, for those that are known by name.
struct Parameters {
  uint64_t first = 0;
  const void* second = nullptr;
  uint64_t number() const { return read(8); }
  uint32_t word() const { return static_cast<uint32_t>(read(4)); }

 private:
  uint64_t read(size_t bytes) const {
    uint64_t value = 0;
    if (second != nullptr) std::memcpy(&value, second, bytes);
    return value;
  }
};

Parameters parameters_of(const Function& function, void** params, void** extra) {
  const size_t bytes = function.parameter_bytes == 8 ? 8 : 4;
  const void* at = nullptr;
  Parameters found;
  if (params != nullptr) {
    at = params[0];
    if (function.parameter_count > 1) found.second = params[1];
  } else if (extra != nullptr) {
    // Pairs of a key and a value, ended by a null key; 1 is the buffer of all parameters.
    for (void** pair = extra; pair[0] != nullptr; pair += 2) {
      if (reinterpret_cast<uintptr_t>(pair[0]) == 1) at = pair[1];
    }
    found.second = at != nullptr ? static_cast<const char*>(at) + bytes : nullptr;
  }
  if (at != nullptr) std::memcpy(&found.first, at, bytes);
  return found;
}

// Kernels that wait for each other by a number in memory.
bool is_flag_kernel(const Function& function) {
  return function.name == "await_flag" || function.name == "raise_flag" ||
         function.name == "nccl_meet";
}

CUresult run_meeting(Stream* stream, const Function& function, Work work, void** params) {
  if (params == nullptr || function.parameter_count < 4) return CUDA_ERROR_INVALID_VALUE;
  uint64_t mine = 0, theirs = 0;
  uint32_t number = 0;
  std::memcpy(&mine, params[0], sizeof mine);
  std::memcpy(&theirs, params[1], sizeof theirs);
  std::memcpy(&number, params[2], sizeof number);
  std::memcpy(&work.ns, params[3], sizeof work.ns);
  meet(stream, {mine, number, 4}, {theirs, number, 4, CU_STREAM_WAIT_VALUE_GEQ}, work);
  return CUDA_SUCCESS;
}

CUresult run_flag_kernel(Stream* stream, const Function& function, const Work& work, void** params,
                         void** extra) {
  if (function.name == "nccl_meet") return run_meeting(stream, function, work, params);
  const Parameters parameters = parameters_of(function, params, extra);
  if (function.name == "await_flag") {
    spin(stream, {parameters.first, parameters.word(), 4, CU_STREAM_WAIT_VALUE_GEQ}, work.fill);
  } else {
    enqueue(stream, work);
    write_later(stream, parameters.first, parameters.word(), 4);
  }
  return CUDA_SUCCESS;
}

CUresult launch(Call& call, CUfunction handle, const Shape& shape, CUstream stream_handle,
                bool per_thread, void** params, void** extra) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = find_stream_with_room(call, stream_handle, per_thread, &code);
  if (stream == nullptr) return code;
  Function* function = find_function(handle, stream->context, &code);
  if (function == nullptr) return code;
  if (!is_good(shape) ||
      static_cast<int>(shape.shared_bytes) > std::max(49152, function->max_dynamic_shared)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Work work{kernel_duration(*function, params, extra),
                  fill_of(*stream->context, block_count(shape.grid))};
  const Sum sum = kernel_sum(*function, block_count(shape.grid), params, extra);
  switch (route_of(stream, &code)) {
    case Route::kFail:
      return code;
    case Route::kCapture: {
      if (is_flag_kernel(*function)) return CUDA_ERROR_NOT_SUPPORTED;
      Node* node = add_node(stream->capture->graph, CU_GRAPH_NODE_TYPE_KERNEL);
      node->function = function;
      node->work = work;
      node->sum = sum;
      append_captured(stream, node);
      return CUDA_SUCCESS;
    }
    case Route::kPlain:
      break;
  }
  if (!take_for_kernel(stream->context, *function)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (is_flag_kernel(*function)) return run_flag_kernel(stream, *function, work, params, extra);
  enqueue(stream, work);
  apply(sum);
  return CUDA_SUCCESS;
}

CUresult launch_old(Call& call, CUfunction handle, int grid_x, int grid_y, CUstream stream) {
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  const auto unsign = [](int value) { return static_cast<unsigned int>(value); };
  const Shape shape{
      {unsign(grid_x), unsign(grid_y), 1},
      {unsign(function->block[0]), unsign(function->block[1]), unsign(function->block[2])},
      0};
  unsigned char* first = function->parameters.data();
  const bool has_two = function->parameters.size() >= function->parameter_bytes + sizeof(uint64_t);
  void* params[] = {first, has_two ? first + function->parameter_bytes : nullptr};
  return launch(call, handle, shape, stream, false, first != nullptr ? params : nullptr, nullptr);
}

bool is_cooperative(const CUlaunchConfig& config) {
  for (unsigned int i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative != 0)
      return true;
  }
  return false;
}

// A cooperative kernel's blocks must all fit on the device at once.
bool fits_at_once(const Device& device, const Shape& shape) {
  const uint64_t threads = uint64_t{shape.block[0]} * shape.block[1] * shape.block[2];
  const uint64_t per =
      threads == 0 ? 0 : static_cast<uint64_t>(device.row->threads_per_multiprocessor) / threads;
  return block_count(shape.grid) <= per * static_cast<uint64_t>(device.row->multiprocessors);
}

CUresult launch_cooperative(Call& call, CUfunction function, const Shape& shape, CUstream stream,
                            bool per_thread, void** params) {
  if (is_good(shape) && !fits_at_once(*call.device(), shape))
    return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  return launch(call, function, shape, stream, per_thread, params, nullptr);
}

CUresult launch_ex(Call& call, const CUlaunchConfig* config, CUfunction function, bool per_thread,
                   void** params, void** extra) {
  if (config == nullptr || (config->numAttrs != 0 && config->attrs == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  const Shape shape{{config->gridDimX, config->gridDimY, config->gridDimZ},
                    {config->blockDimX, config->blockDimY, config->blockDimZ},
                    config->sharedMemBytes};
  if (is_cooperative(*config))
    return launch_cooperative(call, function, shape, config->hStream, per_thread, params);
  return launch(call, function, shape, config->hStream, per_thread, params, extra);
}

CUresult set_parameter(CUfunction handle, Context* context, int offset, const void* value,
                       unsigned int bytes) {
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, context, &code);
  if (function == nullptr) return code;
  if (offset < 0 || offset > 4096 || bytes > 4096 || value == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const auto begin = static_cast<size_t>(offset);
  if (function->parameters.size() < begin + bytes) function->parameters.resize(begin + bytes);
  std::memcpy(function->parameters.data() + begin, value, bytes);
  return CUDA_SUCCESS;
}

}  // namespace

uint64_t kernel_duration(const Function& function, void** params, void** extra) {
  const struct {
    const char* name;
    uint64_t ns;
  } units[] = {{"spin_ns", 1}, {"softmig_work", 1}, {"spin_us", 1000}, {"spin_ms", 1'000'000}};
  for (const auto& unit : units) {
    if (function.name == unit.name)
      return std::min(parameters_of(function, params, extra).first, kMostWorkNs / unit.ns) *
             unit.ns;
  }
  return driver().state->file().kernel_ns;
}

Sum kernel_sum(const Function& function, uint64_t blocks, void** params, void** extra) {
  if (function.name != "softmig_work" || function.parameter_count < 2) return {};
  const Parameters parameters = parameters_of(function, params, extra);
  // x -> 1664525 x + 1013904223, so often as the first parameter says, from each block's number on.
  uint32_t factor = 1, addend = 0, step_factor = 1664525, step_addend = 1013904223;
  for (uint64_t steps = parameters.first; steps != 0; steps >>= 1) {
    if ((steps & 1) != 0) {
      factor *= step_factor;
      addend = addend * step_factor + step_addend;
    }
    step_addend *= step_factor + 1;
    step_factor *= step_factor;
  }
  Sum sum{parameters.number(), 0};
  for (uint64_t block = 0; block < blocks; ++block)
    sum.value += static_cast<uint32_t>(block) * factor + addend;
  return sum;
}

void apply(const Sum& sum) {
  if (sum.address == 0) return;
  uint64_t value = 0;
  const auto here = reinterpret_cast<uint64_t>(&value);
  if (copy_bytes(here, sum.address, sizeof value) != CUDA_SUCCESS) return;
  value += sum.value;
  copy_bytes(sum.address, here, sizeof value);
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                        unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                        unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                        void** params, void** extra) {
  Call call(__func__);
  const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
  return call.failed() ? call.code() : launch(call, function, shape, stream, false, params, extra);
}

CUresult cuLaunchKernel_ptsz(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                             unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                             unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                             void** params, void** extra) {
  Call call(__func__);
  const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
  return call.failed() ? call.code() : launch(call, function, shape, stream, true, params, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params,
                          void** extra) {
  Call call(__func__);
  return call.failed() ? call.code() : launch_ex(call, config, function, false, params, extra);
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction function, void** params,
                               void** extra) {
  Call call(__func__);
  return call.failed() ? call.code() : launch_ex(call, config, function, true, params, extra);
}

CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
                                   unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                   unsigned int block_z, unsigned int shared_bytes, CUstream stream,
                                   void** params) {
  Call call(__func__);
  const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
  return call.failed() ? call.code()
                       : launch_cooperative(call, function, shape, stream, false, params);
}

CUresult cuLaunchCooperativeKernel_ptsz(CUfunction function, unsigned int grid_x,
                                        unsigned int grid_y, unsigned int grid_z,
                                        unsigned int block_x, unsigned int block_y,
                                        unsigned int block_z, unsigned int shared_bytes,
                                        CUstream stream, void** params) {
  Call call(__func__);
  const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
  return call.failed() ? call.code()
                       : launch_cooperative(call, function, shape, stream, true, params);
}

CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS* list, unsigned int count,
                                              unsigned int) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (list == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned int i = 0; i < count; ++i) {
    const CUDA_LAUNCH_PARAMS& one = list[i];
    auto* stream = live<Stream>(one.hStream);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const Shape shape{{one.gridDimX, one.gridDimY, one.gridDimZ},
                      {one.blockDimX, one.blockDimY, one.blockDimZ},
                      one.sharedMemBytes};
    const CUresult code =
        launch(call, one.function, shape, one.hStream, false, one.kernelParams, nullptr);
    if (code != CUDA_SUCCESS) return code;
  }
  return CUDA_SUCCESS;
}

// --- launches of CUDA 3.1 and before

CUresult cuLaunch(CUfunction function) {
  Call call(__func__);
  return call.failed() ? call.code() : launch_old(call, function, 1, 1, nullptr);
}

CUresult cuLaunchGrid(CUfunction function, int grid_x, int grid_y) {
  Call call(__func__);
  return call.failed() ? call.code() : launch_old(call, function, grid_x, grid_y, nullptr);
}

CUresult cuLaunchGridAsync(CUfunction function, int grid_x, int grid_y, CUstream stream) {
  Call call(__func__);
  return call.failed() ? call.code() : launch_old(call, function, grid_x, grid_y, stream);
}

CUresult cuFuncSetBlockShape(CUfunction handle, int x, int y, int z) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (x <= 0 || y <= 0 || z <= 0) return CUDA_ERROR_INVALID_VALUE;
  function->block[0] = x;
  function->block[1] = y;
  function->block[2] = z;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedSize(CUfunction handle, unsigned int) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  find_function(handle, call.context(), &code);
  return code;
}

CUresult cuParamSetSize(CUfunction handle, unsigned int bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (bytes > 4096) return CUDA_ERROR_INVALID_VALUE;
  function->parameters.resize(bytes);
  return CUDA_SUCCESS;
}

CUresult cuParamSeti(CUfunction function, int offset, unsigned int value) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : set_parameter(function, call.context(), offset, &value, sizeof value);
}

CUresult cuParamSetf(CUfunction function, int offset, float value) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : set_parameter(function, call.context(), offset, &value, sizeof value);
}

CUresult cuParamSetv(CUfunction function, int offset, void* value, unsigned int bytes) {
  Call call(__func__);
  return call.failed() ? call.code()
                       : set_parameter(function, call.context(), offset, value, bytes);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int block_size,
                                                     std::size_t) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  if (find_function(handle, call.context(), &code) == nullptr) return code;
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  *blocks = std::min(32, call.device()->row->threads_per_multiprocessor / block_size);
  return CUDA_SUCCESS;
}
