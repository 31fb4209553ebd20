// Contexts: what they hold goes when they go, by the driver's own counting of references.
#include "lifecycle/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kHeld = 256 * kMiB;

// A context of its own from which to look, so that the primary one can come and go.
bool observe(Session* session, CUcontext* observer, Checks::Report& report) {
  std::string step;
  if (!report.expect(load_driver(Lookup{}, &session->driver, &step), step)) return false;
  const Driver& d = session->driver;
  return report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit") &&
         report.result(d.cuDeviceGet(&session->device, 0), CUDA_SUCCESS, "cuDeviceGet") &&
         report.result(d.cuCtxCreate_v2(observer, 0, session->device), CUDA_SUCCESS,
                       "cuCtxCreate_v2");
}

// Memory of several kinds in the current context.
void hold_some(const Driver& d, Checks::Report& report) {
  CUdeviceptr address = 0;
  size_t pitch = 0;
  CUarray array = nullptr;
  const CUDA_ARRAY_DESCRIPTOR desc{1024, 1024, CU_AD_FORMAT_FLOAT, 4};
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "cuMemAlloc");
  report.result(d.cuMemAlloc_v2(&address, 512), CUDA_SUCCESS, "cuMemAlloc of 512 bytes");
  report.result(d.cuMemAllocPitch_v2(&address, &pitch, 1000, 1000, 4), CUDA_SUCCESS,
                "cuMemAllocPitch");
  report.result(d.cuMemAllocManaged(&address, kHeld, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS,
                "cuMemAllocManaged");
  report.result(d.cuArrayCreate_v2(&array, &desc), CUDA_SUCCESS, "cuArrayCreate");
}

void primary_references(Checks::Report& report) {
  Session s;
  CUcontext observer = nullptr;
  if (!observe(&s, &observer, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUcontext primary = nullptr;
  report.result(d.cuDevicePrimaryCtxRetain(&primary, s.device), CUDA_SUCCESS, "first retain");
  const uint64_t with_context = s.free_bytes();
  report.expect(with_context < before, "the primary context takes nothing from the slice");
  report.result(d.cuDevicePrimaryCtxRetain(&primary, s.device), CUDA_SUCCESS, "second retain");
  report.equal(s.free_bytes(), with_context, "free after the second retain");
  d.cuCtxSetCurrent(primary);
  hold_some(d, report);
  d.cuCtxSetCurrent(observer);
  const uint64_t with_memory = s.free_bytes();
  report.expect(with_memory + 2 * kHeld <= with_context, "memory is not counted");
  report.result(d.cuDevicePrimaryCtxRelease_v2(s.device), CUDA_SUCCESS, "first release");
  report.equal(s.free_bytes(), with_memory, "free after the first release");
  report.result(d.cuDevicePrimaryCtxRelease_v2(s.device), CUDA_SUCCESS, "last release");
  report.equal(s.free_bytes(), before, "free after the last release");
  report.expect(d.cuDevicePrimaryCtxRelease_v2(s.device) != CUDA_SUCCESS,
                "one release too many succeeded");
  report.equal(s.free_bytes(), before, "free after one release too many");
  report.note("context_mib", static_cast<double>(before - with_context) / kMiB);
}

void primary_reset(Checks::Report& report) {
  Session s;
  CUcontext observer = nullptr;
  if (!observe(&s, &observer, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  for (int round = 0; round < 3; ++round) {
    CUcontext primary = nullptr;
    report.result(d.cuDevicePrimaryCtxRetain(&primary, s.device), CUDA_SUCCESS, "retain");
    d.cuCtxSetCurrent(primary);
    hold_some(d, report);
    d.cuCtxSetCurrent(observer);
    report.result(d.cuDevicePrimaryCtxReset_v2(s.device), CUDA_SUCCESS, "reset");
    report.equal(s.free_bytes(), before, "free after the reset");
  }
}

void destroy(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  for (int round = 0; round < 3; ++round) {
    CUcontext second = nullptr;
    report.result(d.cuCtxCreate_v2(&second, 0, s.device), CUDA_SUCCESS, "cuCtxCreate_v2");
    hold_some(d, report);
    report.expect(s.free_bytes() + 2 * kHeld < before, "memory is not counted");
    report.result(d.cuCtxDestroy_v2(second), CUDA_SUCCESS, "cuCtxDestroy");
    d.cuCtxSetCurrent(s.context);
    report.equal(s.free_bytes(), before, "free after the destruction");
  }
}

// Contexts count before they are made: where there is no room for one, it is refused and nothing
// is left of it, and the slice is as usable as before.
void refused_context(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUdeviceptr address = 0;
  report.result(d.cuMemAlloc_v2(&address, takable(before - 64 * kMiB)), CUDA_SUCCESS,
                "all but 64 MiB");
  const uint64_t between = s.free_bytes();
  CUcontext second = nullptr;
  report.result(d.cuCtxCreate_v2(&second, 0, s.device), CUDA_ERROR_OUT_OF_MEMORY,
                "a context without room");
  CUcontext current = nullptr;
  d.cuCtxGetCurrent(&current);
  report.expect(current == s.context, "the current context changed");
  report.equal(s.free_bytes(), between, "free after the refusal");
  report.result(d.cuMemFree_v2(address), CUDA_SUCCESS, "free");
  report.equal(s.free_bytes(), before, "free at the end");
}

}  // namespace

void add_context_checks(Checks* checks) {
  checks->add("primary_references", primary_references);
  checks->add("primary_reset", primary_reset);
  checks->add("context_destroy", destroy);
  checks->add("context_refused", refused_context);
}

}  // namespace softmig::gpu_test
