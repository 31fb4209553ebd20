// cuStreamWaitValue, cuStreamWriteValue, and kernels that wait for each other.
#include "driver/signal.h"

#include <chrono>
#include <condition_variable>
#include <thread>
#include <vector>

#include "driver/objects.h"
#include "state/schedule.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

constexpr std::chrono::microseconds kLook{100};
constexpr unsigned int kFlush = 1u << 30;

struct Waiting {
  Ticket ticket;
  Condition condition;
};

bool holds(const Condition& condition) {
  uint64_t now = 0;
  const auto to = reinterpret_cast<uint64_t>(&now);
  if (copy_bytes(to, condition.address, condition.bytes) != CUDA_SUCCESS) return true;
  const unsigned int shift = condition.bytes == 8 ? 0 : 32;
  const auto ahead = static_cast<int64_t>((now - condition.value) << shift);
  switch (condition.compare) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return ahead >= 0;  // cyclic, as the driver's
    case CU_STREAM_WAIT_VALUE_EQ:
      return ahead == 0;
    case CU_STREAM_WAIT_VALUE_AND:
      return (now & condition.value) != 0;
    default:
      return (~(now | condition.value) << shift) != 0;
  }
}

// Everything under the driver's lock.
class Watch {
 public:
  void add(const Ticket& ticket, const Condition& condition) {
    waiting_.push_back({ticket, condition});
    if (!started_) std::thread([this] { run(); }).detach();
    started_ = true;
    changed_.notify_all();
  }

 private:
  // Leaves out what is over, whether it was let go or its context has ended.
  void look() {
    const State::Guard guard(driver().state);
    const uint64_t now = driver().state->catch_up();
    Schedule schedule(&driver().state->file());
    std::vector<Waiting> left;
    for (const Waiting& one : waiting_) {
      if (is_done(one.ticket)) continue;
      const Lane& lane = *one.ticket.lane;
      if (schedule.is_first(lane.row, one.ticket.number) && holds(one.condition))
        schedule.let_go(lane.row, one.ticket.number, now);
      else
        left.push_back(one);
    }
    waiting_ = std::move(left);
  }

  void run() {
    std::unique_lock lock(driver().lock);
    for (;;) {
      look();
      if (waiting_.empty())
        changed_.wait(lock);
      else
        changed_.wait_for(lock, kLook);
    }
  }

  bool started_ = false;
  std::condition_variable changed_;
  std::vector<Waiting> waiting_;
};

Watch& watch() {
  static auto* const one = new Watch();
  return *one;
}

struct Write {
  uint64_t address, value;
  unsigned int bytes;
};

void write(void* data) {
  const auto* one = static_cast<const Write*>(data);
  {
    const std::lock_guard lock(driver().lock);
    copy_bytes(one->address, reinterpret_cast<uint64_t>(&one->value), one->bytes);
  }
  delete one;
}

// The stream for a memory operation; null and *code where there is none.
Stream* stream_for(Call& call, CUstream handle, bool per_thread, uint64_t address,
                   unsigned int bytes, CUresult* code) {
  Stream* stream = find_stream_with_room(call, handle, per_thread, code);
  if (stream == nullptr) return nullptr;
  const Route route = route_of(stream, code);
  if (route == Route::kPlain && address != 0 && address % bytes == 0 && find_range(address))
    return stream;
  if (route == Route::kPlain) *code = CUDA_ERROR_INVALID_VALUE;
  if (route == Route::kCapture) *code = CUDA_ERROR_NOT_SUPPORTED;
  return nullptr;
}

CUresult wait_value(Call& call, CUstream handle, bool per_thread, const Condition& condition) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = stream_for(call, handle, per_thread, condition.address, condition.bytes, &code);
  if (stream == nullptr) return code;
  if ((condition.compare & ~kFlush) > CU_STREAM_WAIT_VALUE_NOR) return CUDA_ERROR_INVALID_VALUE;
  Condition plain = condition;
  plain.compare &= ~kFlush;
  hold(stream, plain);
  return CUDA_SUCCESS;
}

CUresult write_value(Call& call, CUstream handle, bool per_thread, uint64_t address, uint64_t value,
                     unsigned int bytes) {
  CUresult code = CUDA_SUCCESS;
  Stream* stream = stream_for(call, handle, per_thread, address, bytes, &code);
  if (stream == nullptr) return code;
  write_later(stream, address, value, bytes);
  return CUDA_SUCCESS;
}

}  // namespace

void hold(Stream* stream, const Condition& condition) {
  watch().add(enqueue_hold(stream), condition);
}

void spin(Stream* stream, const Condition& condition, uint32_t fill) {
  watch().add(enqueue(stream, {kMostWorkNs, fill, 1}), condition);
}

void meet(Stream* stream, const Condition& number, const Condition& condition, const Work& work) {
  write_later(stream, number.address, number.value, number.bytes);
  spin(stream, condition, work.fill);
  enqueue(stream, work);
}

void write_later(Stream* stream, uint64_t address, uint64_t value, unsigned int bytes) {
  stream->host_task = add_host_task(write, new Write{address, value, bytes}, mark(stream));
}

}  // namespace softmig::sim

using namespace softmig::sim;

#define SIM_VALUE_FUNCTIONS(name, type, bytes, per_thread)                                       \
  CUresult cuStreamWaitValue##name(CUstream stream, CUdeviceptr address, type value,             \
                                   unsigned int flags) {                                         \
    Call call(__func__);                                                                         \
    return call.failed() ? call.code()                                                           \
                         : wait_value(call, stream, per_thread, {address, value, bytes, flags}); \
  }                                                                                              \
  CUresult cuStreamWriteValue##name(CUstream stream, CUdeviceptr address, type value,            \
                                    unsigned int flags) {                                        \
    Call call(__func__);                                                                         \
    if (call.failed()) return call.code();                                                       \
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;                                              \
    return write_value(call, stream, per_thread, address, value, bytes);                         \
  }
SIM_VALUE_FUNCTIONS(32, cuuint32_t, 4, false)
SIM_VALUE_FUNCTIONS(32_ptsz, cuuint32_t, 4, true)
SIM_VALUE_FUNCTIONS(32_v2, cuuint32_t, 4, false)
SIM_VALUE_FUNCTIONS(32_v2_ptsz, cuuint32_t, 4, true)
SIM_VALUE_FUNCTIONS(64, cuuint64_t, 8, false)
SIM_VALUE_FUNCTIONS(64_ptsz, cuuint64_t, 8, true)
SIM_VALUE_FUNCTIONS(64_v2, cuuint64_t, 8, false)
SIM_VALUE_FUNCTIONS(64_v2_ptsz, cuuint64_t, 8, true)
#undef SIM_VALUE_FUNCTIONS
