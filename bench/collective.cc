// One rank of a job on several GPUs, without NCCL: steps of eight kernels and one that, like
// NCCL's, waits on its GPU until the other rank's is there.
//
//   collective COSTS RANK BOARD SECONDS
//
// COSTS as for `share`. Two ranks, 0 and 1, each on the device of its number; BOARD is a file of a
// page of zeros in a tmpfs that both name. The last line of rank 0 says steps per second.
//
// The host prepares a few steps ahead, no more, as a training loop does that looks at its loss.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "share/costs.h"
#include "share/gpu.h"

namespace softmig::bench {
namespace {

constexpr unsigned int kProducts = 8;  // kernels of 200 us before each meeting
constexpr uint32_t kAhead = 4;         // steps that the host prepares
constexpr uint32_t kWarmUp = 16;
constexpr size_t kPage = 4096;

// Its name makes the library take it for one of NCCL's (policy::nature_of). The first thread of all
// says which step its rank has come to, and waits until the other has come to it as well; then it
// works for a while.
constexpr const char* kMeetPtx = R"(.version 6.0
.target sm_70
.address_size 64
.visible .entry nccl_meet(.param .u64 mine, .param .u64 theirs, .param .u32 step,
                          .param .u64 iterations, .param .u64 sink)
{
  .reg .pred %p<3>;
  .reg .b32 %r<6>;
  .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [mine];
  ld.param.u64 %rd2, [theirs];
  ld.param.u32 %r1, [step];
  ld.param.u64 %rd3, [iterations];
  ld.param.u64 %rd4, [sink];
  mov.u32 %r2, %tid.x;
  setp.ne.u32 %p1, %r2, 0;
  @%p1 bra WORK;
  st.release.sys.u32 [%rd1], %r1;
WAIT:
  ld.acquire.sys.u32 %r3, [%rd2];
  sub.s32 %r4, %r3, %r1;
  setp.lt.s32 %p1, %r4, 0;
  @%p1 bra WAIT;
WORK:
  bar.sync 0;
STEP:
  mad.lo.u32 %r2, %r2, 1664525, 1013904223;
  add.s64 %rd3, %rd3, -1;
  setp.ne.s64 %p2, %rd3, 0;
  @%p2 bra STEP;
  setp.eq.u32 %p1, %r2, 0;
  @%p1 st.u32 [%rd4], %r2;
  ret;
}
)";

// What the ranks share.
struct Board {
  alignas(64) std::atomic<uint32_t> step[2];
  alignas(64) std::atomic<uint32_t> last;  // step after which both end; 0: not decided
};
static_assert(sizeof(Board) <= kPage);

Board* map_board(const char* path) {
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) give_up(std::string("cannot open ") + path);
  void* board = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (board == MAP_FAILED) give_up(std::string("cannot map ") + path);
  close(file);
  return static_cast<Board*>(board);
}

class Rank {
 public:
  Rank(Gpu* gpu, int number, Board* board, uint64_t iterations)
      : gpu_(gpu), number_(number), board_(board), iterations_(iterations) {
    const gpu_test::Driver& d = gpu->driver();
    must(d.cuMemHostRegister_v2(board, kPage, CU_MEMHOSTREGISTER_DEVICEMAP), "cuMemHostRegister");
    const auto device_pointer = reinterpret_cast<decltype(&::cuMemHostGetDevicePointer_v2)>(
        dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemHostGetDevicePointer_v2"));
    CUdeviceptr base = 0;
    must(device_pointer(&base, board, 0), "cuMemHostGetDevicePointer");
    for (int i = 0; i < 2; ++i)
      steps_[i] = base + static_cast<uint64_t>(reinterpret_cast<char*>(&board->step[i]) -
                                               reinterpret_cast<char*>(board));
    CUmodule module = nullptr;
    must(d.cuModuleLoadData(&module, kMeetPtx), "cuModuleLoadData");
    must(d.cuModuleGetFunction(&meet_, module, "nccl_meet"), "cuModuleGetFunction");
    must(d.cuMemAlloc_v2(&sink_, sizeof(uint32_t)), "cuMemAlloc");
    stream_ = gpu->new_stream();
    for (CUevent& event : done_) event = gpu->new_event();
  }

  // Steps per second.
  double run(double seconds) {
    int64_t begin = 0;
    uint32_t step = 1;
    for (;; ++step) {
      if (step > kAhead) await(step - kAhead);
      if (step == kWarmUp + kAhead) begin = now_ns();
      const bool over = begin != 0 && static_cast<double>(now_ns() - begin) > seconds * 1e9;
      // The other rank is less than twice so far ahead.
      if (number_ == 0 && over && board_->last == 0) board_->last = step + 2 * kAhead;
      if (board_->last != 0 && step > board_->last) break;
      launch(step);
    }
    await(step - 1);
    return (step - 1 - kWarmUp) * 1e9 / static_cast<double>(now_ns() - begin);
  }

 private:
  void launch(uint32_t step) {
    for (unsigned int i = 0; i < kProducts; ++i)
      gpu_->launch(stream_, iterations_, gpu_->full(), How::kPlain);
    void* params[] = {&steps_[number_], &steps_[1 - number_], &step, &iterations_, &sink_};
    must(gpu_->driver().cuLaunchKernel(meet_, 1, 1, 1, 32, 1, 1, 0, stream_, params, nullptr),
         "cuLaunchKernel");
    must(gpu_->driver().cuEventRecord(done_[step % kAhead], stream_), "cuEventRecord");
  }
  void await(uint32_t step) {
    must(gpu_->driver().cuEventSynchronize(done_[step % kAhead]), "cuEventSynchronize");
  }

  Gpu* gpu_;
  int number_;
  Board* board_;
  uint64_t iterations_;
  CUdeviceptr steps_[2] = {}, sink_ = 0;
  CUfunction meet_ = nullptr;
  CUstream stream_ = nullptr;
  CUevent done_[kAhead] = {};
};

int program(int argc, char** argv) {
  Costs costs;
  const int number = argc == 5 ? std::atoi(argv[2]) : -1;
  if ((number != 0 && number != 1) || !parse_costs(argv[1], &costs) || !costs.contains("200us")) {
    std::fprintf(stderr, "usage: collective COSTS 0|1 BOARD SECONDS\n");
    return 2;
  }
  Board* board = map_board(argv[3]);
  Gpu gpu;
  gpu.open(number);
  Rank rank(&gpu, number, board, costs.find("200us")->second.iterations);
  const double rate = rank.run(std::atof(argv[4]));
  if (number == 0) gpu_test::Line("collective").add("rate", rate).add("ok", true).print();
  return 0;
}

}  // namespace
}  // namespace softmig::bench

int main(int argc, char** argv) { return softmig::bench::program(argc, argv); }
