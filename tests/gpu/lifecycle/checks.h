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
inline void expect_exactly_free(const Session& session, Checks::Report& report, std::string_view what) {
  const uint64_t free = session.free_bytes() / kPage * kPage;
  CUdeviceptr address = 0, more = 0;
  report.result(session.driver.cuMemAlloc_v2(&address, free), CUDA_SUCCESS, std::string(what) + ": all that is free");
  report.result(session.driver.cuMemAlloc_v2(&more, kPage), CUDA_ERROR_OUT_OF_MEMORY, std::string(what) + ": 2 MiB more");
  report.result(session.driver.cuMemFree_v2(address), CUDA_SUCCESS, std::string(what) + ": freeing it");
}

void add_process_checks(Checks* checks);
void add_context_checks(Checks* checks);
void add_free_checks(Checks* checks);
void add_pool_checks(Checks* checks);
void add_error_checks(Checks* checks);
void add_thread_checks(Checks* checks);

}  // namespace softmig::gpu_test
