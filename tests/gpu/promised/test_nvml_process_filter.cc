// test_nvml_process_filter: NVML lists this process, and then its three children as well; in a
// slice nobody else. Compares the list with the one that the NVML library itself gives. Without a
// GPU or NVML it prints SKIP and succeeds.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "common/gpu.h"
#include "common/nvml.h"
#include "common/peer.h"

namespace softmig::gpu_test {
namespace {

using Pids = std::set<unsigned int>;
constexpr int kChildren = 3;

// A function of a library as its file has it, past whatever stands before it in this process.
const void* raw_symbol(void* library, const char* name) {
  link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) return nullptr;
  const int fd = open(map->l_name, O_RDONLY | O_CLOEXEC);
  struct stat about {};
  if (fd < 0 || fstat(fd, &about) != 0) return nullptr;
  const auto size = static_cast<size_t>(about.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) return nullptr;
  const char* file = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header->e_shoff);
  const void* found = nullptr;
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_DYNSYM) continue;
    const char* names = file + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[i].sh_offset);
    const size_t count = sections[i].sh_size / sizeof *symbols;
    const auto* symbol = std::find_if(symbols, symbols + count, [&](const ElfW(Sym) & s) {
      return s.st_value != 0 && std::strcmp(names + s.st_name, name) == 0;
    });
    if (symbol != symbols + count) {
      found = reinterpret_cast<const void*>(map->l_addr + symbol->st_value);
    }
  }
  munmap(mapped, size);
  return found;
}

struct Node {
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  void* library = nullptr;

  // False: no NVML here.
  bool open() {
    if (!nvml.open() || nvml.nvmlDeviceGetComputeRunningProcesses_v2 == nullptr) return false;
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    unsigned int count = 0;
    return nvml.nvmlDeviceGetCount_v2(&count) == NVML_SUCCESS && count > 0 &&
           nvml.nvmlDeviceGetHandleByIndex_v2(0, &device) == NVML_SUCCESS;
  }

  template <class Entry>
  Pids ask(nvmlReturn_t (*list)(nvmlDevice_t, unsigned int*, Entry*)) const {
    std::vector<Entry> entries(1024);
    auto count = static_cast<unsigned int>(entries.size());
    Pids pids;
    if (list == nullptr || list(device, &count, entries.data()) != NVML_SUCCESS) return pids;
    for (unsigned int i = 0; i < count; ++i) pids.insert(entries[i].pid);
    return pids;
  }

  Pids listed() const { return ask(nvml.nvmlDeviceGetComputeRunningProcesses_v2); }
  Pids listed_v3() const { return ask(nvml.nvmlDeviceGetComputeRunningProcesses_v3); }
  // As the library itself answers; empty where its file cannot be read.
  Pids raw() const {
    const void* address = raw_symbol(library, "nvmlDeviceGetComputeRunningProcesses_v2");
    return ask(reinterpret_cast<decltype(&::nvmlDeviceGetComputeRunningProcesses_v2)>(
        const_cast<void*>(address)));
  }
};

// Waits for a word, then holds `bytes` of device memory until it is ended.
int hold(Channel& channel, uint64_t bytes) {
  char word = 0;
  if (!channel.get(&word)) return 1;
  Session session;
  std::string step;
  CUresult code = session.open(Lookup{}, 0, &step);
  CUdeviceptr address = 0;
  if (code == CUDA_SUCCESS) code = session.driver.cuMemAlloc_v2(&address, bytes);
  channel.put(code);
  channel.get(&word);
  return 0;
}

void print(const char* what, const Pids& pids) {
  std::printf("  %s:", what);
  for (unsigned int pid : pids) std::printf(" %u", pid);
  std::printf("\n");
}

// Everyone of `job` must be listed. What the library itself lists beyond that is said, and whether
// it was filtered out.
bool check(const char* stage, const Node& node, const Pids& job) {
  const Pids filtered = node.listed(), newer = node.listed_v3(), raw = node.raw();
  bool good = true;
  for (unsigned int pid : job) {
    const bool there =
        filtered.count(pid) == 1 &&
        (node.nvml.nvmlDeviceGetComputeRunningProcesses_v3 == nullptr || newer.count(pid) == 1);
    if (!there) std::printf("FAIL: %s: process %u is not listed\n", stage, pid);
    good = good && there;
  }
  std::printf("%s: %s: %zu processes listed, %zu of them ours", good ? "PASS" : "FAIL", stage,
              filtered.size(), job.size());
  if (raw.empty()) {
    std::printf("; the raw list cannot be had\n");
  } else if (raw.size() > filtered.size()) {
    std::printf("; filtered: NVML itself lists %zu\n", raw.size());
    print("filtered list", filtered);
    print("raw list", raw);
  } else {
    std::printf("; NVML itself lists as many\n");
  }
  return good;
}

int run() {
  // Forked before anything of CUDA was called.
  std::vector<std::unique_ptr<Child>> children;
  for (uint64_t mib = 1; mib <= kChildren; ++mib) {
    children.push_back(
        std::make_unique<Child>([mib](Channel& channel) { return hold(channel, mib * kMiB); }));
  }
  Session session;
  Node node;
  std::string step;
  const CUresult opened = session.open(Lookup{}, 0, &step);
  if (opened == CUDA_ERROR_SHARED_OBJECT_INIT_FAILED || opened == CUDA_ERROR_NO_DEVICE) {
    std::printf("SKIP: no GPU (%s)\n", step.c_str());
    return 0;
  }
  if (!node.open()) {
    std::printf("SKIP: no NVML\n");
    return 0;
  }
  if (opened != CUDA_SUCCESS) {
    std::printf("FAIL: %s: %s\n", step.c_str(), error_name(session.driver, opened).c_str());
    return 1;
  }
  Pids job = {static_cast<unsigned int>(getpid())};
  bool good = check("single process", node, job);
  for (const auto& child : children) {
    CUresult code = CUDA_ERROR_UNKNOWN;
    if (child->pid() <= 0 || !child->channel().put('g') || !child->channel().get(&code) ||
        code != CUDA_SUCCESS) {
      std::printf("FAIL: a child process cannot hold memory (%s)\n",
                  error_name(session.driver, code).c_str());
      good = false;
    }
    job.insert(static_cast<unsigned int>(child->pid()));
  }
  good = check("one parent and three children", node, job) && good;
  for (const auto& child : children) {
    if (child->pid() > 0) kill(child->pid(), SIGTERM);
    child->wait();
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace softmig::gpu_test

int main() { return softmig::gpu_test::run(); }
