// Physical memory and mappings; exports to other processes; IPC.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "harness.h"

namespace softmig::sim_test {
namespace {

using VmmTest = ContextTest;
using ShareTest = SimTest;

CUmemAllocationProp props() {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return prop;
}

CUresult create(CUmemGenericAllocationHandle* handle, uint64_t bytes) {
  const CUmemAllocationProp prop = props();
  return cuMemCreate(handle, bytes, &prop, 0);
}

CUresult allow(CUdeviceptr address, uint64_t bytes) {
  const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                               CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  return cuMemSetAccess(address, bytes, &access, 1);
}

CUresult import(int fd, CUmemGenericAllocationHandle* handle) {
  return cuMemImportFromShareableHandle(handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
}

TEST_F(VmmTest, GranularityIsTwoMiB) {
  const CUmemAllocationProp prop = props();
  size_t bytes = 0;
  CUmemGenericAllocationHandle handle = 0;
  ASSERT_CUDA(cuMemGetAllocationGranularity(&bytes, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  EXPECT_EQ(bytes, 2 * kMiB);
  EXPECT_EQ(create(&handle, 3 * kMiB), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(create(&handle, 0), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(VmmTest, MemoryLivesWhileAHandleOrAMappingDoes) {
  const Marked mark;
  CUmemGenericAllocationHandle handle = 0, retained = 0;
  CUdeviceptr address = 0;
  ASSERT_CUDA(create(&handle, 256 * kMiB));
  EXPECT_EQ(mark.listed(), 256);
  ASSERT_CUDA(cuMemAddressReserve(&address, 512 * kMiB, 0, 0, 0));
  ASSERT_CUDA(cuMemMap(address, 256 * kMiB, 0, handle, 0));
  EXPECT_EQ(mark.listed(), 256) << "addresses and mappings cost nothing";
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(mark.listed(), 256) << "the mapping holds it";
  ASSERT_CUDA(cuMemRetainAllocationHandle(&retained, reinterpret_cast<void*>(address + 5)));
  ASSERT_CUDA(cuMemUnmap(address, 256 * kMiB));
  EXPECT_EQ(mark.listed(), 256) << "the handle holds it";
  ASSERT_CUDA(cuMemRelease(retained));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(cuMemRelease(retained), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CUDA(cuMemAddressFree(address, 512 * kMiB));
}

TEST_F(VmmTest, MappingsKeepTheRules) {
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr address = 0;
  ASSERT_CUDA(create(&handle, 4 * kMiB));
  ASSERT_CUDA(cuMemAddressReserve(&address, 8 * kMiB, 0, 0, 0));
  EXPECT_EQ(cuMemMap(address, 8 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE)
      << "larger than the memory";
  EXPECT_EQ(cuMemMap(address + 1, 4 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemMap(address + 6 * kMiB, 4 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE)
      << "past the range";
  ASSERT_CUDA(cuMemMap(address, 4 * kMiB, 0, handle, 0));
  EXPECT_EQ(cuMemMap(address + 2 * kMiB, 4 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE)
      << "taken";
  EXPECT_EQ(cuMemsetD8_v2(address, 1, 1), CUDA_ERROR_INVALID_VALUE) << "no access yet";
  ASSERT_CUDA(cuMemMap(address + 4 * kMiB, 4 * kMiB, 0, handle, 0)) << "the same memory twice";
  EXPECT_EQ(cuMemAddressFree(address, 8 * kMiB), CUDA_ERROR_INVALID_VALUE) << "still mapped";
  ASSERT_CUDA(allow(address, 8 * kMiB));
  ASSERT_CUDA(cuMemsetD8_v2(address + 100, 9, 10));
  char byte = 0;
  ASSERT_CUDA(cuMemcpyDtoH_v2(&byte, address + 4 * kMiB + 105, 1));
  EXPECT_EQ(byte, 9) << "one memory, two addresses";
  EXPECT_EQ(cuMemUnmap(address, 2 * kMiB), CUDA_ERROR_INVALID_VALUE) << "a part";
  EXPECT_CUDA(cuMemUnmap(address, 8 * kMiB));
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(VmmTest, ForeignDescriptorsAreExternalMemory) {
  const Marked mark;
  const int fd = memfd_create("foreign", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, 6 * kMiB), 0);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(import(fd, &handle), CUDA_ERROR_INVALID_VALUE) << "not an export of CUDA";
  CUDA_EXTERNAL_MEMORY_HANDLE_DESC desc{};
  desc.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
  desc.handle.fd = fd;
  desc.size = 5 * kMiB;
  CUexternalMemory memory = nullptr;
  ASSERT_CUDA(cuImportExternalMemory(&memory, &desc));
  EXPECT_EQ(fcntl(fd, F_GETFD), -1) << "the driver owns it now";
  EXPECT_EQ(mark.listed(), 6);
  CUDA_EXTERNAL_MEMORY_BUFFER_DESC buffer{};
  buffer.size = 5 * kMiB;
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuExternalMemoryGetMappedBuffer(&address, memory, &buffer));
  EXPECT_CUDA(cuMemsetD8_v2(address, 1, 5 * kMiB));
  ASSERT_CUDA(cuDestroyExternalMemory(memory));
  EXPECT_EQ(mark.listed(), 6) << "mapped";
  ASSERT_CUDA(cuMemFree_v2(address));
  EXPECT_EQ(mark.listed(), 0);
}

// The measured life of an export: the importer is charged nothing, the exporter until it lets go,
// then nobody, while the memory stays as long as the importer has it.
TEST_F(ShareTest, AnExportLivesOnWithoutItsMaker) {
  Child importer([](Child& parent) {
    EXPECT_CUDA(start());
    const int fd = parent.receive_fd();
    const Marked mark;
    CUmemGenericAllocationHandle handle = 0;
    EXPECT_CUDA(import(fd, &handle));
    close(fd);
    CUdeviceptr address = 0;
    EXPECT_CUDA(cuMemAddressReserve(&address, 256 * kMiB, 0, 0, 0));
    EXPECT_EQ(cuMemMap(address, 512 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT_CUDA(cuMemMap(address, 256 * kMiB, 0, handle, 0));
    EXPECT_CUDA(allow(address, 256 * kMiB));
    EXPECT_EQ(mark.listed(), 0);
    unsigned char byte = 0;
    EXPECT_CUDA(cuMemcpyDtoH_v2(&byte, address + 100 * kMiB, 1));
    EXPECT_EQ(byte, 42) << "what the exporter wrote";
    parent.say(1);
    parent.hear();
    EXPECT_CUDA(cuMemRelease(handle));
    EXPECT_CUDA(cuMemUnmap(address, 256 * kMiB));
    EXPECT_EQ(mark.listed(), 0);
    parent.say(2);
    parent.hear();
    return 0;
  });
  ASSERT_CUDA(start());
  const Marked mark;
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr address = 0;
  ASSERT_CUDA(create(&handle, 256 * kMiB));
  ASSERT_CUDA(cuMemAddressReserve(&address, 256 * kMiB, 0, 0, 0));
  ASSERT_CUDA(cuMemMap(address, 256 * kMiB, 0, handle, 0));
  ASSERT_CUDA(allow(address, 256 * kMiB));
  ASSERT_CUDA(cuMemsetD8_v2(address + 100 * kMiB, 42, 1));
  int fd = -1;
  ASSERT_CUDA(
      cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  EXPECT_EQ(mark.listed(), 256);
  importer.send_fd(fd);
  close(fd);
  ASSERT_EQ(importer.hear(), 1u);
  EXPECT_EQ(mark.listed(), 256);
  EXPECT_EQ(listed(importer.pid()), kContextListed);
  const double before = used();
  ASSERT_CUDA(cuMemUnmap(address, 256 * kMiB));
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(listed(importer.pid()), kContextListed) << "shows in no process";
  EXPECT_EQ(used(), before) << "but is there";
  importer.say(1);
  ASSERT_EQ(importer.hear(), 2u);
  EXPECT_EQ(used(), before - 256);
  importer.say(1);
  EXPECT_EQ(importer.wait(), 0);
}

TEST_F(ShareTest, AnOpenDescriptorKeepsTheMemory) {
  ASSERT_CUDA(start());
  int fd = -1;
  const double before = used();
  CUmemGenericAllocationHandle handle = 0;
  ASSERT_CUDA(create(&handle, 128 * kMiB));
  ASSERT_CUDA(
      cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(used(), before + 128) << "the descriptor holds it";
  const int twin = dup(fd);
  close(fd);
  EXPECT_EQ(used(), before + 128);
  ASSERT_CUDA(import(twin, &handle));
  close(twin);
  EXPECT_EQ(used(), before + 128) << "the import holds it";
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(used(), before);
}

TEST_F(ShareTest, ADescriptorInFlightSurvivesTheExporter) {
  Child exporter([](Child& parent) {
    EXPECT_CUDA(start());
    CUmemGenericAllocationHandle handle = 0;
    int fd = -1;
    EXPECT_CUDA(create(&handle, 128 * kMiB));
    EXPECT_CUDA(
        cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    parent.send_fd(fd);
    return 0;
  });
  ASSERT_EQ(exporter.wait(), 0);
  EXPECT_EQ(used(), 128) << "the descriptor lies in the socket";
  const int fd = exporter.receive_fd();
  ASSERT_CUDA(start());
  CUmemGenericAllocationHandle handle = 0;
  ASSERT_CUDA(import(fd, &handle));
  close(fd);
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
}

TEST_F(ShareTest, IpcMemoryShowsInTheImporterAfterItsMakerFreedIt) {
  Child importer([](Child& parent) {
    EXPECT_CUDA(start());
    const auto handle = parent.receive<CUipcMemHandle>();
    const Marked mark;
    CUdeviceptr address = 0, base = 0, again = 0;
    size_t bytes = 0;
    EXPECT_CUDA(cuIpcOpenMemHandle_v2(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    EXPECT_EQ(mark.listed(), 0);
    EXPECT_CUDA(cuMemGetAddressRange_v2(&base, &bytes, address));
    EXPECT_EQ(base, address);
    EXPECT_EQ(bytes, 128 * kMiB);
    EXPECT_CUDA(cuIpcOpenMemHandle_v2(&again, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    EXPECT_EQ(again, address) << "opened twice, mapped once";
    EXPECT_CUDA(cuIpcCloseMemHandle(again));
    int value = 0;
    EXPECT_CUDA(cuMemcpyDtoH_v2(&value, address + 8, 4));
    EXPECT_EQ(value, 77);
    parent.say(1);
    parent.hear();
    EXPECT_CUDA(cuIpcCloseMemHandle(address));
    EXPECT_EQ(cuIpcCloseMemHandle(address), CUDA_ERROR_INVALID_VALUE);
    parent.say(2);
    parent.hear();
    return 0;
  });
  ASSERT_CUDA(start());
  const Marked mark;
  CUdeviceptr address = 0;
  CUipcMemHandle handle{}, twin{};
  ASSERT_CUDA(cuMemAlloc_v2(&address, 128 * kMiB));
  ASSERT_CUDA(cuMemsetD32_v2(address + 8, 77, 1));
  ASSERT_CUDA(cuIpcGetMemHandle(&handle, address));
  ASSERT_CUDA(cuIpcGetMemHandle(&twin, address));
  EXPECT_EQ(std::memcmp(&handle, &twin, sizeof handle), 0);
  EXPECT_EQ(cuIpcOpenMemHandle_v2(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
            CUDA_ERROR_INVALID_CONTEXT);
  importer.send(handle);
  ASSERT_EQ(importer.hear(), 1u);
  EXPECT_EQ(mark.listed(), 128);
  const double before = used();
  ASSERT_CUDA(cuMemFree_v2(address));
  EXPECT_EQ(mark.listed(), 0);
  EXPECT_EQ(listed(importer.pid()), kContextListed + 128);
  EXPECT_EQ(used(), before);
  importer.say(1);
  ASSERT_EQ(importer.hear(), 2u);
  EXPECT_EQ(listed(importer.pid()), kContextListed);
  EXPECT_EQ(used(), before - 128);
  importer.say(1);
  EXPECT_EQ(importer.wait(), 0);
}

TEST_F(ShareTest, IpcMemoryLivesOnWhenItsMakerIsKilled) {
  Child maker([](Child& parent) {
    EXPECT_CUDA(start());
    CUdeviceptr address = 0;
    CUipcMemHandle handle{};
    EXPECT_CUDA(cuMemAlloc_v2(&address, 64 * kMiB));
    EXPECT_CUDA(cuIpcGetMemHandle(&handle, address));
    parent.send(handle);
    pause();
    return 0;
  });
  const auto handle = maker.receive<CUipcMemHandle>();
  ASSERT_CUDA(start());
  CUdeviceptr address = 0;
  ASSERT_CUDA(cuIpcOpenMemHandle_v2(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  maker.kill();
  EXPECT_EQ(used(), kBaseUsed + kContextUsed + 64);
  EXPECT_EQ(listed(getpid()), kContextListed + 64);
  ASSERT_CUDA(cuIpcCloseMemHandle(address));
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
  EXPECT_EQ(cuIpcOpenMemHandle_v2(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
            CUDA_ERROR_INVALID_HANDLE);
}

}  // namespace
}  // namespace softmig::sim_test
