// Work on the GPU that waits for work, or for threads, that may stand at the gate.
#include <cstdlib>
#include <thread>

#include "stuck/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr double kClosedMs = 500;

// The consumer spins while the producer, launched after it by the same thread, is held back.
void spin_pair(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream consumer = gpu.stream(), producer = gpu.stream();
  step("spin_pair: closing the gate");
  if (!close_gate(report, gpu, producer, kClosedMs)) return;
  step("spin_pair: launching the consumer");
  report.result(gpu.await(consumer, 0, 1), CUDA_SUCCESS, "the consumer");
  step("spin_pair: launching the producer");
  for (int i = 0; i < 8; ++i)
    report.result(gpu.launch(producer, 10000), CUDA_SUCCESS, "work before the producer");
  report.result(gpu.raise(producer, 0, 1), CUDA_SUCCESS, "the producer");
  step("spin_pair: waiting for both");
  gpu.has_right_sum(report);
}

// Two streams that answer each other; all is launched before the first answer can come.
void ping_pong(Checks::Report& report) {
  constexpr uint32_t kRounds = 20;
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream left = gpu.stream(), right = gpu.stream();
  if (!close_gate(report, gpu, left, kClosedMs)) return;
  step("ping_pong: launching");
  for (uint32_t i = 1; i <= kRounds; ++i) {
    report.result(gpu.await(left, 0, i), CUDA_SUCCESS, "left waits");
    report.result(gpu.launch(left, 500), CUDA_SUCCESS, "left works");
    report.result(gpu.raise(left, 1, i), CUDA_SUCCESS, "left answers");
    report.result(gpu.raise(right, 0, i), CUDA_SUCCESS, "right begins");
    report.result(gpu.launch(right, 500), CUDA_SUCCESS, "right works");
    report.result(gpu.await(right, 1, i), CUDA_SUCCESS, "right waits");
  }
  step("ping_pong: waiting");
  gpu.has_right_sum(report);
  report.equal(gpu.flag(1), kRounds, "answers");
}

// Much work is queued behind a kernel that spins, and only then comes the one that it waits for.
void queue_behind_spin(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream consumer = gpu.stream(), producer = gpu.stream();
  report.result(gpu.await(consumer, 0, 1), CUDA_SUCCESS, "the consumer");
  step("queue_behind_spin: queueing behind a kernel that spins");
  const double begin = now_ms();
  for (int i = 0; i < 200; ++i)
    report.result(gpu.launch(consumer, 2000), CUDA_SUCCESS, "work behind the consumer");
  report.note("queued_ms", now_ms() - begin);
  step("queue_behind_spin: launching the producer");
  report.result(gpu.raise(producer, 0, 1), CUDA_SUCCESS, "the producer");
  step("queue_behind_spin: waiting");
  gpu.has_right_sum(report);
}

// The producer is another thread, which stands at the gate when the consumer begins to spin.
void spin_for_thread(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream consumer = gpu.stream(), producer = gpu.stream();
  if (!close_gate(report, gpu, producer, kClosedMs)) return;
  Checks::Report of_thread;
  std::thread thread([&] {
    gpu.attach(of_thread);
    of_thread.result(gpu.launch(producer, 20000), CUDA_SUCCESS, "work of the thread");
    of_thread.result(gpu.raise(producer, 0, 1), CUDA_SUCCESS, "the producer");
  });
  step("spin_for_thread: launching the consumer");
  report.result(gpu.await(consumer, 0, 1), CUDA_SUCCESS, "the consumer");
  step("spin_for_thread: waiting for the consumer");
  report.result(cu().cuStreamSynchronize(consumer), CUDA_SUCCESS, "cuStreamSynchronize");
  thread.join();
  report.expect(of_thread.is_good(), of_thread.text());
  gpu.has_right_sum(report);
}

// A stream waits for a value that a launch at the gate writes.
void value_from_launch(Checks::Report& report) {
  if (cu().cuStreamWaitValue32_v2 == nullptr) return report.skip("no cuStreamWaitValue32_v2");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream waiting = gpu.stream(), writing = gpu.stream();
  if (!close_gate(report, gpu, writing, kClosedMs)) return;
  const CUresult code =
      cu().cuStreamWaitValue32_v2(waiting, gpu.flag_address(0), 1, CU_STREAM_WAIT_VALUE_GEQ);
  if (code == CUDA_ERROR_NOT_SUPPORTED) return report.skip("no memory operations in streams");
  report.result(code, CUDA_SUCCESS, "cuStreamWaitValue32");
  step("value_from_launch: launching behind the wait");
  for (int i = 0; i < 10; ++i)
    report.result(gpu.launch(waiting, 2000), CUDA_SUCCESS, "work behind the wait");
  step("value_from_launch: launching the writer");
  for (int i = 0; i < 4; ++i)
    report.result(gpu.launch(writing, 10000), CUDA_SUCCESS, "work before the write");
  report.result(gpu.raise(writing, 0, 1), CUDA_SUCCESS, "the writer");
  step("value_from_launch: waiting");
  gpu.has_right_sum(report);
}

// The same, written by the stream itself.
void value_from_stream(Checks::Report& report) {
  if (cu().cuStreamWaitValue32_v2 == nullptr) return report.skip("no cuStreamWaitValue32_v2");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream waiting = gpu.stream(), writing = gpu.stream();
  CUresult code = CUDA_SUCCESS;
  for (uint32_t i = 1; i <= 20 && code == CUDA_SUCCESS; ++i) {
    step("value_from_stream: launching");
    code = cu().cuStreamWaitValue32_v2(waiting, gpu.flag_address(0), i, CU_STREAM_WAIT_VALUE_EQ);
    if (code == CUDA_ERROR_NOT_SUPPORTED) return report.skip("no memory operations in streams");
    report.result(gpu.launch(waiting, 3000), CUDA_SUCCESS, "work behind the wait");
    report.result(gpu.launch(writing, 3000), CUDA_SUCCESS, "work before the write");
    if (code == CUDA_SUCCESS)
      code = cu().cuStreamWriteValue32_v2(writing, gpu.flag_address(0), i, 0);
    // Each value is there until it was seen.
    step("value_from_stream: waiting for the answer");
    if (code == CUDA_SUCCESS) code = cu().cuStreamSynchronize(waiting);
  }
  report.result(code, CUDA_SUCCESS, "waiting for a value that a stream writes");
  gpu.has_right_sum(report);
}

// The same, written by a thread of the program; meanwhile the stream's launches must not be taken
// for a GPU that has hung.
void value_from_thread(Checks::Report& report) {
  if (cu().cuStreamWaitValue32_v2 == nullptr) return report.skip("no cuStreamWaitValue32_v2");
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream waiting = gpu.stream(), other = gpu.stream();
  const CUresult code =
      cu().cuStreamWaitValue32_v2(waiting, gpu.flag_address(0), 1, CU_STREAM_WAIT_VALUE_GEQ);
  if (code == CUDA_ERROR_NOT_SUPPORTED) return report.skip("no memory operations in streams");
  report.result(code, CUDA_SUCCESS, "cuStreamWaitValue32");
  std::thread thread([&] {
    sleep_ms(1200);
    gpu.flag(0) = 1;
  });
  step("value_from_thread: launching behind the wait");
  for (int i = 0; i < 10; ++i)
    report.result(gpu.launch(waiting, 1000), CUDA_SUCCESS, "work behind the wait");
  // What waits for a thread is not charged: another stream has the whole share meanwhile.
  step("value_from_thread: working beside the wait");
  const double share = hungry_share(report, 1, gpu, other);
  thread.join();
  gpu.has_right_sum(report);
  if (share >= 0) expect_share(report, share, 5);
}

// Launches one after the other behind a kernel that takes longer than anything is known to take.
// TEST_LONG_SECONDS says how long.
void after_long_kernel(Checks::Report& report) {
  const char* text = std::getenv("TEST_LONG_SECONDS");
  const double seconds = text != nullptr ? std::atof(text) : 2;
  constexpr int kLaunches = 1000;
  Gpu gpu;
  if (!gpu.open(report)) return;
  // All debts paid, and as many launches that find no debt.
  const auto patience = static_cast<unsigned int>(seconds * (100.0 / limit_percent() + 1) + 20);
  set_alarm(patience, "after_long_kernel");
  CUstream stream = gpu.stream();
  report.result(gpu.launch(stream, 200), CUDA_SUCCESS, "a short kernel");
  step("after_long_kernel: the long one");
  const double begin = now_ms();
  report.result(gpu.launch(stream, seconds * 1e6, Gpu::kBlocks - 1), CUDA_SUCCESS,
                "the long kernel");
  step("after_long_kernel: 1000 launches behind it");
  for (int i = 0; i < kLaunches; ++i)
    report.result(gpu.launch(stream, 5), CUDA_SUCCESS, "a launch behind it");
  report.note("launched_ms", now_ms() - begin);
  step("after_long_kernel: waiting");
  gpu.has_right_sum(report);
  const double all = (now_ms() - begin) / 1e3;
  report.note("seconds", all);
  // A debt of that kernel is paid once, by waiting as long as the limit says; not more.
  report.expect(all < seconds * 100 / limit_percent() + 5, "far more was paid than was used");
}

// Functions on the host that other work waits for, and that themselves wait for a thread.
void host_function(Checks::Report& report) {
  Gpu gpu;
  if (!gpu.open(report)) return;
  CUstream stream = gpu.stream(), other = gpu.stream();
  if (!close_gate(report, gpu, stream, kClosedMs)) return;
  std::atomic<int> called{0};
  const auto function = [](void* data) {
    sleep_ms(100);
    ++*static_cast<std::atomic<int>*>(data);
  };
  step("host_function: launching");
  for (int i = 0; i < 10; ++i) {
    report.result(gpu.launch(stream, 2000), CUDA_SUCCESS, "work before the function");
    report.result(cu().cuLaunchHostFunc(stream, function, &called), CUDA_SUCCESS,
                  "cuLaunchHostFunc");
    report.result(gpu.launch(other, 2000), CUDA_SUCCESS, "work beside the function");
  }
  step("host_function: waiting");
  gpu.has_right_sum(report);
  report.equal(static_cast<uint64_t>(called.load()), 10, "calls of the function");
}

}  // namespace

void add_wait_checks(Checks* checks) {
  add_timed(checks, "spin_pair", 30, spin_pair);
  add_timed(checks, "ping_pong", 60, ping_pong);
  add_timed(checks, "queue_behind_spin", 30, queue_behind_spin);
  add_timed(checks, "spin_for_thread", 30, spin_for_thread);
  add_timed(checks, "value_from_launch", 30, value_from_launch);
  add_timed(checks, "value_from_stream", 30, value_from_stream);
  add_timed(checks, "value_from_thread", 30, value_from_thread);
  add_timed(checks, "after_long_kernel", 30, after_long_kernel);
  add_timed(checks, "host_function", 30, host_function);
}

}  // namespace softmig::gpu_test
