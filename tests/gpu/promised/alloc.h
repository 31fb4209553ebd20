// The small programs that the documentation promises in build/test: each takes memory by one route
// and says in words how it ended. Without a GPU they print SKIP and succeed.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

#include "common/gpu.h"

namespace softmig::gpu_test {

using TakePiece = std::function<CUresult(const Session&, uint64_t bytes)>;

// Opens the first GPU. Where that fails: why, and the status with which the program ends.
inline std::optional<int> end_without_gpu(Session* session) {
  std::string step;
  const CUresult code = session->open(Lookup{}, 0, &step);
  if (code == CUDA_SUCCESS) return std::nullopt;
  if (code == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED || code == CUDA_ERROR_NO_DEVICE) {
    std::printf("SKIP: no GPU (%s)\n", step.c_str());
    return 0;
  }
  std::printf("FAIL: %s: %s\n", step.c_str(), error_name(session->driver, code).c_str());
  return 1;
}

// Takes pieces of 64 MiB until one is refused, and prints what was granted. With a limit in force
// the end must be CUDA_ERROR_OUT_OF_MEMORY before `total` is passed. Without one the driver grants
// more managed memory than the card has, which is no fault.
inline int take_until_refused(const char* what, const TakePiece& take) {
  constexpr uint64_t kPiece = 64 * kMiB;
  Session session;
  if (const auto status = end_without_gpu(&session)) return *status;
  const uint64_t total = session.total_bytes();
  std::printf("total %llu MiB, free %llu MiB\n", static_cast<unsigned long long>(total / kMiB),
              static_cast<unsigned long long>(session.free_bytes() / kMiB));
  uint64_t granted = 0;
  CUresult last = CUDA_SUCCESS;
  while (granted <= total && (last = take(session, kPiece)) == CUDA_SUCCESS) granted += kPiece;
  if (last == CUDA_SUCCESS) {
    const bool limited = std::getenv("CUDA_DEVICE_MEMORY_LIMIT") != nullptr;
    std::printf("%s%s: %llu MiB granted, more than there is: %s\n", limited ? "FAIL: " : "", what,
                static_cast<unsigned long long>(granted / kMiB),
                limited ? "the limit does not hold" : "no limit is set");
    return limited ? 1 : 0;
  }
  std::printf("%s: %llu MiB granted, then %s\n", what,
              static_cast<unsigned long long>(granted / kMiB),
              error_name(session.driver, last).c_str());
  return last == CUDA_ERROR_OUT_OF_MEMORY ? 0 : 1;
}

}  // namespace softmig::gpu_test
