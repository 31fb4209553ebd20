// The life-cycle checks, one family per file.
#pragma once

#include "common/gpu.h"

namespace softmig::gpu_test {

inline constexpr uint64_t kPage = 2 * kMiB;

// Opens device 0 by dlsym on a handle; a failure is the check's failure.
inline bool open(Session* session, Checks::Report& report) {
  std::string step;
  const CUresult code = session->open(Lookup{}, 0, &step);
  return report.result(code, CUDA_SUCCESS, step);
}

// Everything that is free is granted by one request, and nothing beyond it.
inline void expect_exactly_free(const Session& session, Checks::Report& report,
                                std::string_view what) {
  const uint64_t free = takable(session.free_bytes());
  if (!report.expect(free > 0, "no limit is in force")) return;
  CUdeviceptr address = 0, more = 0;
  report.result(session.driver.cuMemAlloc_v2(&address, free), CUDA_SUCCESS,
                std::string(what) + ": all that is free");
  report.result(session.driver.cuMemAlloc_v2(&more, kPage), CUDA_ERROR_OUT_OF_MEMORY,
                std::string(what) + ": 2 MiB more");
  report.result(session.driver.cuMemFree_v2(address), CUDA_SUCCESS,
                std::string(what) + ": freeing it");
}

// Free memory as it is shown once another process has died: views may notice that within a second
// (a request for memory must notice it at once).
inline uint64_t free_after_a_death(const Session& session, uint64_t expected) {
  uint64_t free = session.free_bytes();
  for (double deadline = now_ms() + 1500; free != expected && now_ms() < deadline; sleep_ms(10)) {
    free = session.free_bytes();
  }
  return free;
}

void add_process_checks(Checks* checks);
void add_context_checks(Checks* checks);
void add_free_checks(Checks* checks);
void add_pool_checks(Checks* checks);
void add_error_checks(Checks* checks);
void add_thread_checks(Checks* checks);

}  // namespace softmig::gpu_test
