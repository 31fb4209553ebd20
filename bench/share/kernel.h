// The kernel that all loads run: a fixed number of steps of a linear congruential generator in
// every thread. A kernel that is switched out makes no progress, so work done is time on the GPU;
// one that counted clock ticks would go on "working" while another job runs. Every block adds one
// number to a sum, so that the host knows to the bit what a set of launches must leave there.
#pragma once

#include <cstdint>
#include <string>

namespace softmig::bench {

inline constexpr const char* kWorkName = "softmig_work";
inline constexpr unsigned int kWorkThreads = 256;
inline constexpr uint32_t kFactor = 1664525, kAddend = 1013904223;

// PTX for the driver to compile; `target` such as "sm_52". The condition before the sum is one that
// the compiler cannot decide, so it must keep the steps of all threads: a thread other than the
// first adds its number only if that is 0.
inline std::string work_ptx(const std::string& target) {
  return ".version 6.0\n.target " + target + R"(
.address_size 64
.visible .entry softmig_work(.param .u64 iterations, .param .u64 sink)
{
  .reg .pred %p<4>;
  .reg .b32 %r<4>;
  .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [iterations];
  ld.param.u64 %rd2, [sink];
  cvta.to.global.u64 %rd3, %rd2;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %tid.x;
  mad.lo.u32 %r3, %r2, 65539, %r1;
  setp.eq.u64 %p1, %rd1, 0;
  @%p1 bra DONE;
STEP:
  mad.lo.u32 %r3, %r3, 1664525, 1013904223;
  add.s64 %rd1, %rd1, -1;
  setp.ne.s64 %p2, %rd1, 0;
  @%p2 bra STEP;
DONE:
  setp.eq.u32 %p1, %r2, 0;
  setp.eq.or.u32 %p3, %r3, 0, %p1;
  cvt.u64.u32 %rd4, %r3;
  @%p3 red.global.add.u64 [%rd3], %rd4;
  ret;
}
)";
}

// What one launch of `blocks` blocks adds to the sum.
inline uint64_t work_result(uint64_t iterations, unsigned int blocks) {
  uint32_t factor = 1, addend = 0, step_factor = kFactor, step_addend = kAddend;
  for (; iterations != 0; iterations >>= 1) {
    if ((iterations & 1) != 0) {
      factor *= step_factor;
      addend = addend * step_factor + step_addend;
    }
    step_addend *= step_factor + 1;
    step_factor *= step_factor;
  }
  uint64_t sum = 0;
  for (uint32_t block = 0; block < blocks; ++block) sum += uint32_t{block * factor + addend};
  return sum;
}

}  // namespace softmig::bench
