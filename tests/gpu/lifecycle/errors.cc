// Wrong arguments: the driver's own answer comes through and no figure moves.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "abi/region.h"
#include "common/nvml.h"
#include "lifecycle/checks.h"

namespace softmig::gpu_test {
namespace {

bool is_refusal(CUresult code) {
  return code == CUDA_ERROR_OUT_OF_MEMORY || code == CUDA_ERROR_INVALID_VALUE;
}

void wrong_arguments(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUdeviceptr address = 0;
  size_t pitch = 0;
  report.result(d.cuMemAlloc_v2(nullptr, 4096), CUDA_ERROR_INVALID_VALUE, "cuMemAlloc to null");
  report.result(d.cuMemAlloc_v2(&address, 0), CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of nothing");
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, s.device};
  CUmemGenericAllocationHandle handle = 0;
  report.expect(d.cuMemCreate(&handle, 2 * kMiB, nullptr, 0) != CUDA_SUCCESS,
                "cuMemCreate without properties succeeded");
  report.expect(d.cuMemCreate(&handle, 12345, &prop, 0) != CUDA_SUCCESS,
                "cuMemCreate of an odd size succeeded");
  prop.location.id = 77;
  report.expect(d.cuMemCreate(&handle, 2 * kMiB, &prop, 0) != CUDA_SUCCESS,
                "cuMemCreate on device 77 succeeded");
  CUarray array = nullptr;
  report.expect(d.cuArrayCreate_v2(&array, nullptr) != CUDA_SUCCESS,
                "cuArrayCreate without a description succeeded");
  report.expect(d.cuMemAllocPitch_v2(&address, &pitch, 0, 10, 4) != CUDA_SUCCESS,
                "cuMemAllocPitch of no width succeeded");
  report.equal(s.free_bytes(), before, "free at the end");
}

// Null where a handle or an address belongs, as clean-up code gives it: the tables of what is held
// must neither find something there nor lose count of what they hold.
void null_handles(Checks::Report& report) {
  constexpr int kPieces = 150, kNulls = 100;
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  std::vector<CUdeviceptr> pieces(kPieces);
  for (CUdeviceptr& piece : pieces) d.cuMemAlloc_v2(&piece, 4096);
  for (int i = 0; i < kNulls; ++i) {
    d.cuMemFree_v2(0);
    d.cuMemFreeAsync(0, nullptr);
  }
  for (int i = 0; i < 4 * kPieces; ++i) d.cuMemAlloc_v2(&pieces.emplace_back(), 4096);
  for (const CUdeviceptr piece : pieces) {
    if (!report.result(d.cuMemFree_v2(piece), CUDA_SUCCESS, "cuMemFree")) return;
  }
  report.equal(s.free_bytes(), before, "free at the end");
  report.expect(d.cuMemPoolDestroy(nullptr) != CUDA_SUCCESS, "no pool was destroyed");
}

// Sizes whose sums and products overflow must not wrap around into something small.
void huge_sizes(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUdeviceptr address = 0;
  size_t pitch = 0;
  for (uint64_t bytes : {~uint64_t{0}, ~uint64_t{0} - 4095, uint64_t{1} << 63, uint64_t{1} << 62,
                         uint64_t{1} << 44}) {
    report.expect(is_refusal(d.cuMemAlloc_v2(&address, bytes)),
                  "cuMemAlloc of " + std::to_string(bytes));
    report.expect(is_refusal(d.cuMemAllocAsync(&address, bytes, nullptr)),
                  "cuMemAllocAsync of " + std::to_string(bytes));
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, s.device};
    CUmemGenericAllocationHandle handle = 0;
    report.expect(d.cuMemCreate(&handle, bytes / (2 * kMiB) * (2 * kMiB), &prop, 0) != CUDA_SUCCESS,
                  "cuMemCreate of " + std::to_string(bytes));
  }
  report.expect(
      is_refusal(d.cuMemAllocPitch_v2(&address, &pitch, uint64_t{1} << 33, uint64_t{1} << 33, 4)),
      "a product of 2^66");
  report.expect(is_refusal(d.cuMemAllocPitch_v2(&address, &pitch, 1, uint64_t{1} << 56, 4)),
                "2^56 padded rows");
  const CUDA_ARRAY_DESCRIPTOR desc{uint64_t{1} << 40, uint64_t{1} << 40, CU_AD_FORMAT_FLOAT, 4};
  CUarray array = nullptr;
  report.expect(d.cuArrayCreate_v2(&array, &desc) != CUDA_SUCCESS, "an endless array");
  report.equal(s.free_bytes(), before, "free at the end");
  expect_exactly_free(s, report, "afterwards");
}

// A size that became negative is refused and makes no room for others.
void negative_sizes(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t room = takable(s.free_bytes());
  if (!report.expect(room > 0, "no limit is in force")) return;
  CUdeviceptr address = 0;
  for (uint64_t bytes : {-kGiB, -(8 * kGiB), uint64_t{3} << 62}) {
    report.expect(is_refusal(d.cuMemAllocAsync(&address, bytes, nullptr)),
                  "cuMemAllocAsync of " + std::to_string(bytes));
  }
  uint64_t taken = 0;
  while (taken <= room && d.cuMemAllocAsync(&address, 64 * kMiB, nullptr) == CUDA_SUCCESS) {
    taken += 64 * kMiB;
  }
  report.expect(taken <= room, "stream-ordered memory beyond the limit");
}

// A format that no table of old knows (two planes, subsampled).
void planar_array(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const uint64_t before = s.free_bytes();
  CUDA_ARRAY3D_DESCRIPTOR desc{};
  desc.Width = 1920;
  desc.Height = 1080;
  desc.Format = CU_AD_FORMAT_NV12;
  desc.NumChannels = 3;
  CUarray array = nullptr;
  const CUresult code = s.driver.cuArray3DCreate_v2(&array, &desc);
  report.note("code", code);
  if (code == CUDA_SUCCESS) {
    report.expect(before - s.free_bytes() >= 1920 * 1080 * 3 / 2, "the array is not counted");
    report.result(s.driver.cuArrayDestroy(array), CUDA_SUCCESS, "cuArrayDestroy");
  }
  report.equal(s.free_bytes(), before, "free at the end");
}

void before_initialisation(Checks::Report& report) {
  Driver d;
  std::string step;
  if (!report.expect(load_driver(Lookup{}, &d, &step), step)) return;
  CUdeviceptr address = 0;
  size_t free = 0, total = 0;
  report.result(d.cuMemAlloc_v2(&address, 4096), CUDA_ERROR_NOT_INITIALIZED,
                "cuMemAlloc before cuInit");
  report.result(d.cuMemGetInfo_v2(&free, &total), CUDA_ERROR_NOT_INITIALIZED,
                "cuMemGetInfo before cuInit");
  report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit");
  report.result(d.cuMemAlloc_v2(&address, 4096), CUDA_ERROR_INVALID_CONTEXT,
                "cuMemAlloc without a context");
  report.result(d.cuMemGetInfo_v2(&free, &total), CUDA_ERROR_INVALID_CONTEXT,
                "cuMemGetInfo without a context");
}

// Gives every place for a device in the slice's region to a GPU that is not here.
bool fill_region() {
  const char* path = std::getenv("SOFTMIG_REGION");
  const int fd = path != nullptr ? ::open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return false;
  void* map = mmap(nullptr, sizeof(abi::RegionHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) return false;
  for (uint64_t i = 0; i < abi::kMaxDevices; i++) {
    static_cast<abi::RegionHeader*>(map)->device[i].key.store(i + 1);
  }
  munmap(map, sizeof(abi::RegionHeader));
  return true;
}

// What cannot be counted is not granted; device 1 has no limit, and is as ever.
void region_full(Checks::Report& report) {
  Session s;
  const Driver& d = s.driver;
  std::string step;
  if (!report.expect(load_driver(Lookup{}, &s.driver, &step), step)) return;
  report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit");
  if (!report.expect(fill_region(), "the region could not be filled")) return;
  report.result(d.cuDevicePrimaryCtxRetain(&s.context, 0), CUDA_ERROR_OUT_OF_MEMORY,
                "primary context");
  report.result(d.cuCtxCreate_v2(&s.context, 0, 0), CUDA_ERROR_OUT_OF_MEMORY, "context");
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemGenericAllocationHandle handle = 0;
  for (int i = 0; i < 3; ++i) {
    report.result(d.cuMemCreate(&handle, kPage, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY, "cuMemCreate");
  }
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  nvmlMemory_t memory{};
  if (!report.expect(nvml.open(), "no NVML")) return;
  nvml.nvmlDeviceGetHandleByIndex_v2(0, &device);
  report.expect(nvml.nvmlDeviceGetMemoryInfo(device, &memory) == NVML_SUCCESS, "memory info");
  report.equal(memory.free, 0, "free, as NVML shows it");
  report.equal(memory.used, memory.total, "used, as NVML shows it");
  CUdeviceptr address = 0;
  report.result(d.cuDevicePrimaryCtxRetain(&s.context, 1), CUDA_SUCCESS, "context on device 1");
  d.cuCtxSetCurrent(s.context);
  report.result(d.cuMemAlloc_v2(&address, kGiB), CUDA_SUCCESS, "memory of device 1");
  report.expect(s.free_bytes() > 16 * kGiB, "device 1 is not shown as it is");
}

}  // namespace

void add_error_checks(Checks* checks) {
  checks->add("wrong_arguments", wrong_arguments);
  checks->add("null_handles", null_handles);
  checks->add("huge_sizes", huge_sizes);
  checks->add("negative_sizes", negative_sizes);
  checks->add("planar_array", planar_array);
  checks->add("before_initialisation", before_initialisation);
  checks->add_hidden("region_full", region_full);
}

}  // namespace softmig::gpu_test
