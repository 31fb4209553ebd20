#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "common/peer.h"
#include "virt/meters.h"

namespace softmig::bench {
namespace {

using gpu_test::Channel;
using gpu_test::Driver;
using gpu_test::Line;

constexpr unsigned char kPattern = 0x5a;
constexpr auto kDescriptor = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) give_up("the path of the socket is too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

int listen_at(const std::string& path) {
  const sockaddr_un address = address_of(path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(path.c_str());
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd, 1) != 0)
    give_up("cannot listen at " + path);
  return fd;
}

int connect_to(const std::string& path) {
  const sockaddr_un address = address_of(path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    give_up("cannot connect to " + path);
  return fd;
}

// Readable and writable memory at an address of our own.
CUdeviceptr map(const Gpu& gpu, CUmemGenericAllocationHandle handle, uint64_t bytes) {
  const Driver& d = gpu.driver();
  CUdeviceptr address = 0;
  must(d.cuMemAddressReserve(&address, bytes, 0, 0, 0), "cuMemAddressReserve");
  must(d.cuMemMap(address, bytes, 0, handle, 0), "cuMemMap");
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, gpu.device()};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  must(d.cuMemSetAccess(address, bytes, &access, 1), "cuMemSetAccess");
  return address;
}

void unmap(const Driver& d, CUdeviceptr address, uint64_t bytes) {
  must(d.cuMemUnmap(address, bytes), "cuMemUnmap");
  must(d.cuMemAddressFree(address, bytes), "cuMemAddressFree");
}

bool has_pattern(const Driver& d, CUdeviceptr address, CUresult* code) {
  unsigned char bytes[64] = {};
  *code = d.cuMemcpyDtoH_v2(bytes, address, sizeof bytes);
  for (unsigned char byte : bytes) {
    if (byte != kPattern) return false;
  }
  return *code == CUDA_SUCCESS;
}

}  // namespace

void crash(Gpu* gpu) {
  const Driver& d = gpu->driver();
  const CUfunction work = load_work(d);
  uint64_t iterations = 1000;
  CUdeviceptr nowhere = 0x10;
  void* params[] = {&iterations, &nowhere};
  CUstream stream = gpu->new_stream();
  const int64_t start = now_ns();
  CUresult code = d.cuLaunchKernel(work, 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr);
  if (code == CUDA_SUCCESS) code = d.cuStreamSynchronize(stream);
  const auto took = static_cast<double>(now_ns() - start);
  Line("crash").add("result", code).add("ns", took).add("ok", true).print();
}

void lend(const Gpu& gpu, uint64_t bytes, const std::string& path) {
  const Driver& d = gpu.driver();
  const int listener = listen_at(path);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = kDescriptor;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, gpu.device()};
  CUmemGenericAllocationHandle handle = 0;
  must(d.cuMemCreate(&handle, bytes, &prop, 0), "cuMemCreate");
  const CUdeviceptr address = map(gpu, handle, bytes);
  must(d.cuMemsetD8_v2(address, kPattern, bytes), "cuMemsetD8");
  must(d.cuCtxSynchronize(), "cuCtxSynchronize");
  Line("lend").add("address", static_cast<uint64_t>(address)).add("ok", true).print();
  Channel borrower(accept(listener, nullptr, nullptr));
  int fd = -1;
  must(d.cuMemExportToShareableHandle(&fd, handle, kDescriptor, 0), "cuMemExportToShareableHandle");
  borrower.send_fd(fd);
  close(fd);
  char done = 0;
  const bool heard = borrower.get(&done);
  close(listener);
  unmap(d, address, bytes);
  must(d.cuMemRelease(handle), "cuMemRelease");
  Line("lent").add("ok", heard).print();
}

void peek(const Gpu& gpu, CUdeviceptr address) {
  CUresult code = CUDA_SUCCESS;
  const bool read = has_pattern(gpu.driver(), address, &code);
  Line("peek").add("result", code).add("read", read).add("ok", true).print();
}

void borrow(const Gpu& gpu, uint64_t bytes, const std::string& path) {
  const Driver& d = gpu.driver();
  Line line("borrow");
  Channel lender(connect_to(path));
  const int fd = lender.receive_fd();
  const uint64_t before = memory_info(d).free;
  CUmemGenericAllocationHandle handle = 0;
  const CUresult import = d.cuMemImportFromShareableHandle(
      &handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)), kDescriptor);
  line.add("import_result", import);
  close(fd);
  if (import == CUDA_SUCCESS) {
    const CUdeviceptr address = map(gpu, handle, bytes);
    CUresult code = CUDA_SUCCESS;
    line.add("import_read", has_pattern(d, address, &code));
    line.add("charged", before - memory_info(d).free);
    unmap(d, address, bytes);
    must(d.cuMemRelease(handle), "cuMemRelease");
  }
  lender.put(char{1});
  line.add("ok", true).print();
}

}  // namespace softmig::bench
