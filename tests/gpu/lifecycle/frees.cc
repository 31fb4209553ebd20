// Every way of freeing that CUDA allows gives back exactly what was taken, and a free that the
// driver refuses gives back nothing.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "common/peer.h"
#include "lifecycle/checks.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kHeld = 128 * kMiB;

CUmemAllocationProp device_memory(CUdevice device) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  return prop;
}

// cuMemFree of stream-ordered memory, cuMemFreeAsync of plain memory (which the driver may refuse).
void crosswise(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  const uint64_t before = s.free_bytes();
  for (int round = 0; round < 20; ++round) {
    CUdeviceptr ordered = 0, plain = 0;
    report.result(d.cuMemAllocAsync(&ordered, kHeld, stream), CUDA_SUCCESS, "cuMemAllocAsync");
    report.result(d.cuMemAlloc_v2(&plain, kHeld), CUDA_SUCCESS, "cuMemAlloc");
    report.equal(s.free_bytes(), before - 2 * kHeld, "free while both are held");
    d.cuStreamSynchronize(stream);
    report.result(d.cuMemFree_v2(ordered), CUDA_SUCCESS, "cuMemFree of stream-ordered memory");
    const CUresult code = d.cuMemFreeAsync(plain, stream);
    if (round == 0) report.note("plain_memory_code", code);
    if (code != CUDA_SUCCESS) report.result(d.cuMemFree_v2(plain), CUDA_SUCCESS, "cuMemFree");
    report.result(d.cuStreamSynchronize(stream), CUDA_SUCCESS, "synchronise");
    d.cuCtxSynchronize();
    report.equal(s.free_bytes(), before, "free after both");
  }
}

void elsewhere(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUcontext second = nullptr;
  report.result(d.cuCtxCreate_v2(&second, 0, s.device), CUDA_SUCCESS, "cuCtxCreate_v2");
  d.cuCtxSetCurrent(s.context);
  const uint64_t before = s.free_bytes();
  CUdeviceptr address = 0;
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "cuMemAlloc");
  CUresult code = CUDA_ERROR_UNKNOWN;
  std::thread([&] {
    d.cuCtxSetCurrent(s.context);
    code = d.cuMemFree_v2(address);
  }).join();
  report.result(code, CUDA_SUCCESS, "free in another thread");
  report.equal(s.free_bytes(), before, "free after that");
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "cuMemAlloc");
  d.cuCtxSetCurrent(second);
  code = d.cuMemFree_v2(address);
  d.cuCtxSetCurrent(s.context);
  if (code != CUDA_SUCCESS) report.result(d.cuMemFree_v2(address), CUDA_SUCCESS, "free at home");
  report.note("foreign_context_code", code);
  report.equal(s.free_bytes(), before, "free after a free with another context current");
}

void refused_frees(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUdeviceptr address = 0;
  report.note("null_code", d.cuMemFree_v2(0));
  report.expect(d.cuMemFree_v2(0xdead0000) != CUDA_SUCCESS, "free of a wild pointer succeeded");
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "cuMemAlloc");
  report.expect(d.cuMemFree_v2(address + 512) != CUDA_SUCCESS,
                "free of an inner pointer succeeded");
  report.equal(s.free_bytes(), before - kHeld, "free after refused frees");
  report.result(d.cuMemFree_v2(address), CUDA_SUCCESS, "free");
  report.expect(d.cuMemFree_v2(address) != CUDA_SUCCESS, "a second free succeeded");
  report.equal(s.free_bytes(), before, "free at the end");
}

// Small pieces share pages: the page comes back with the last of them.
void packed_pieces(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  std::vector<CUdeviceptr> held(5000);
  for (CUdeviceptr& address : held)
    report.result(d.cuMemAlloc_v2(&address, 700), CUDA_SUCCESS, "700 bytes");
  report.expect(before - s.free_bytes() <= 8 * kMiB, "small pieces cost too much");
  report.expect(before - s.free_bytes() >= held.size() * 700, "small pieces are not counted");
  for (size_t i = 0; i < held.size(); i += 2) d.cuMemFree_v2(held[i]);
  for (size_t i = 1; i < held.size(); i += 2) d.cuMemFree_v2(held[i]);
  report.equal(s.free_bytes(), before, "free at the end");
}

// Physical memory lives as long as a handle or a mapping does.
void vmm_references(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUmemAllocationProp prop = device_memory(s.device);
  CUmemGenericAllocationHandle handle = 0, again = 0;
  CUdeviceptr address = 0;
  report.result(d.cuMemCreate(&handle, kHeld, &prop, 0), CUDA_SUCCESS, "cuMemCreate");
  report.equal(s.free_bytes(), before - kHeld, "free after cuMemCreate");
  report.result(d.cuMemAddressReserve(&address, 2 * kHeld, 0, 0, 0), CUDA_SUCCESS,
                "cuMemAddressReserve");
  report.result(d.cuMemMap(address, kHeld, 0, handle, 0), CUDA_SUCCESS, "first mapping");
  report.result(d.cuMemMap(address + kHeld, kHeld, 0, handle, 0), CUDA_SUCCESS, "second mapping");
  report.equal(s.free_bytes(), before - kHeld, "free after two mappings");
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, s.device},
                         CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  report.result(d.cuMemSetAccess(address, 2 * kHeld, &access, 1), CUDA_SUCCESS, "cuMemSetAccess");
  report.result(d.cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(address)),
                CUDA_SUCCESS, "retain");
  report.result(d.cuMemRelease(handle), CUDA_SUCCESS, "release");
  report.result(d.cuMemUnmap(address, kHeld), CUDA_SUCCESS, "first unmap");
  report.equal(s.free_bytes(), before - kHeld, "free while a mapping and a handle live");
  report.result(d.cuMemUnmap(address + kHeld, kHeld), CUDA_SUCCESS, "second unmap");
  report.equal(s.free_bytes(), before - kHeld, "free while a handle lives");
  report.result(d.cuMemRelease(again), CUDA_SUCCESS, "last release");
  report.equal(s.free_bytes(), before, "free at the end");
  report.result(d.cuMemAddressFree(address, 2 * kHeld), CUDA_SUCCESS, "cuMemAddressFree");
}

// Host memory is never counted, wherever it is asked for.
void host_memory(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  void* pinned = nullptr;
  report.result(d.cuMemHostAlloc(&pinned, kHeld, 0), CUDA_SUCCESS, "cuMemHostAlloc");
  report.equal(s.free_bytes(), before, "free after cuMemHostAlloc");
  void* own = mmap(nullptr, kHeld, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  report.result(d.cuMemHostRegister_v2(own, kHeld, 0), CUDA_SUCCESS, "cuMemHostRegister");
  report.equal(s.free_bytes(), before, "free after cuMemHostRegister");
  CUmemAllocationProp prop = device_memory(0);
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
  prop.location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 0};
  CUmemGenericAllocationHandle handle = 0;
  const CUresult created = d.cuMemCreate(&handle, kHeld, &prop, 0);
  report.note("host_numa_code", created);
  report.equal(s.free_bytes(), before, "free after cuMemCreate on the host");
  if (created == CUDA_SUCCESS) d.cuMemRelease(handle);
  d.cuMemHostUnregister(own);
  d.cuMemFreeHost(pinned);
  munmap(own, kHeld);
  report.equal(s.free_bytes(), before, "free at the end");
}

// The exporter dies while the importer still maps the memory: it stays taken.
void import_outlives_exporter(Checks::Report& report) {
  Child exporter([](Channel& channel) {
    char go = 0;
    channel.get(&go);
    Session s;
    std::string step;
    CUmemGenericAllocationHandle handle = 0;
    int fd = -1;
    CUresult code = s.open(Lookup{}, 0, &step);
    CUmemAllocationProp prop = device_memory(s.device);
    if (code == CUDA_SUCCESS) code = s.driver.cuMemCreate(&handle, kGiB, &prop, 0);
    if (code == CUDA_SUCCESS)
      code = s.driver.cuMemExportToShareableHandle(&fd, handle,
                                                   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    channel.put(code);
    if (code == CUDA_SUCCESS) channel.send_fd(fd);
    channel.get(&go);
    return 0;
  });
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  CUresult code = CUDA_ERROR_UNKNOWN;
  exporter.channel().put('1');
  exporter.channel().get(&code);
  if (!report.result(code, CUDA_SUCCESS, "the exporter")) return;
  const int fd = exporter.channel().receive_fd();
  const uint64_t shared = s.free_bytes();
  CUmemGenericAllocationHandle handle = 0;
  report.result(
      d.cuMemImportFromShareableHandle(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                       CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
      CUDA_SUCCESS, "import");
  close(fd);
  report.equal(s.free_bytes(), shared, "free after the import (it is charged once)");
  exporter.kill();
  CUdeviceptr address = 0;
  report.result(d.cuMemAlloc_v2(&address, takable(before - kGiB / 2)), CUDA_ERROR_OUT_OF_MEMORY,
                "more than is left beside the imported memory");
  report.equal(free_after_a_death(s, before - kGiB), before - kGiB,
               "free while the importer holds 1 GiB");
  report.result(d.cuMemRelease(handle), CUDA_SUCCESS, "release");
  report.equal(s.free_bytes(), before, "free at the end");
}

// What counts is where the memory lies, not which context is current.
void other_device(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  int count = 0;
  d.cuDeviceGetCount(&count);
  if (count < 2) return report.skip("one device only");
  CUcontext other = nullptr;
  report.result(d.cuDevicePrimaryCtxRetain(&other, 1), CUDA_SUCCESS, "context on device 1");
  const auto free_of = [&](CUcontext context) {
    d.cuCtxSetCurrent(context);
    const uint64_t free = s.free_bytes();
    d.cuCtxSetCurrent(s.context);
    return free;
  };
  const uint64_t first = free_of(s.context), second = free_of(other);
  CUmemAllocationProp prop = device_memory(1);
  CUmemGenericAllocationHandle handle = 0;
  report.result(d.cuMemCreate(&handle, kHeld, &prop, 0), CUDA_SUCCESS, "cuMemCreate on device 1");
  report.equal(free_of(s.context), first, "free of device 0 after cuMemCreate on 1");
  report.equal(free_of(other), second - kHeld, "free of device 1 after cuMemCreate on 1");
  d.cuMemRelease(handle);
  d.cuCtxSetCurrent(other);
  CUdeviceptr address = 0;
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "cuMemAlloc on device 1");
  d.cuCtxSetCurrent(s.context);
  report.result(d.cuMemFree_v2(address), CUDA_SUCCESS, "cuMemFree with device 0 current");
  report.equal(free_of(s.context), first, "free of device 0 at the end");
  report.equal(free_of(other), second, "free of device 1 at the end");
}

}  // namespace

void add_free_checks(Checks* checks) {
  checks->add("free_crosswise", crosswise);
  checks->add("free_elsewhere", elsewhere);
  checks->add("free_refused", refused_frees);
  checks->add("free_packed_pieces", packed_pieces);
  checks->add("vmm_references", vmm_references);
  checks->add("host_memory", host_memory);
  checks->add("import_outlives_exporter", import_outlives_exporter);
  checks->add("other_device", other_device);
}

}  // namespace softmig::gpu_test
