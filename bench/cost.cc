// cost all [SINCE_NS]   every cost of one process that uses the GPU; SINCE_NS is when its parent
//                       started it (CLOCK_MONOTONIC), for the time to the first context
// cost calls            a call through the PLT into hooked functions that refuse at once
// cost launch           launches of an empty kernel, of a cooperative one and of a graph of one
// cost pointers         whose are the functions that look-ups give? (passive: all the driver's)
// cost exec N [PRELOAD] N times /bin/true without, with and again without PRELOAD, interleaved
// cost hold             makes a context and waits for the end of standard input
//
// One line of JSON; times are medians in nanoseconds unless named otherwise.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "common/gpu.h"
#include "share/gpu.h"

extern char** environ;

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kPage = 2 * kMiB;

using bench::now_ns;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Median time of one call of `body` over `n` calls, the first tenth of them thrown away.
template <class Body>
double each_ns(int n, Body body) {
  std::vector<double> times;
  for (int i = 0; i < n; ++i) {
    const int64_t start = now_ns();
    body();
    if (i >= n / 10) times.push_back(static_cast<double>(now_ns() - start));
  }
  return median(times);
}

// For calls of nanoseconds: batches, and the median batch.
template <class Body>
double batched_ns(int batches, int n, Body body) {
  std::vector<double> times;
  for (int batch = 0; batch < batches; ++batch) {
    const int64_t start = now_ns();
    for (int i = 0; i < n; ++i) body();
    times.push_back(static_cast<double>(now_ns() - start) / n);
  }
  return median(times);
}

int fail(const std::string& text) {
  Line("cost").add("ok", false).add("text", text).print();
  return 1;
}

void measure_pool(const Session& s, Line* line) {
  const Driver& d = s.driver;
  CUstream stream = nullptr;
  CUmemoryPool pool = nullptr;
  cuuint64_t threshold = ~cuuint64_t{0};
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  d.cuDeviceGetDefaultMemPool(&pool, s.device);
  d.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold);
  CUdeviceptr address = 0;
  const auto pair = [&] {
    d.cuMemAllocAsync(&address, kPage, stream);
    d.cuMemFreeAsync(address, stream);
  };
  line->add("async_pair", batched_ns(40, 500, pair));
  std::vector<double> alloc, free;
  for (int i = 0; i < 4000; ++i) {
    const int64_t start = now_ns();
    d.cuMemAllocAsync(&address, kPage, stream);
    const int64_t middle = now_ns();
    d.cuMemFreeAsync(address, stream);
    alloc.push_back(static_cast<double>(middle - start));
    free.push_back(static_cast<double>(now_ns() - middle));
  }
  line->add("async_alloc", median(alloc)).add("async_free", median(free));
  threshold = 0;
  d.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold);
  d.cuStreamSynchronize(stream);
  d.cuMemPoolTrimTo(pool, 0);
  d.cuStreamDestroy_v2(stream);
}

void measure_plain(const Session& s, Line* line) {
  const Driver& d = s.driver;
  CUdeviceptr address = 0;
  line->add("alloc_free", each_ns(1000, [&] {
              d.cuMemAlloc_v2(&address, kPage);
              d.cuMemFree_v2(address);
            }));
  CUdeviceptr keep = 0;
  d.cuMemAlloc_v2(&keep, 512);
  line->add("alloc_free_512", each_ns(2000, [&] {
              d.cuMemAlloc_v2(&address, 512);
              d.cuMemFree_v2(address);
            }));
  d.cuMemFree_v2(keep);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, s.device};
  CUmemGenericAllocationHandle handle = 0;
  line->add("create_release", each_ns(1000, [&] {
              d.cuMemCreate(&handle, kPage, &prop, 0);
              d.cuMemRelease(handle);
            }));
  size_t free = 0, total = 0;
  line->add("mem_get_info", each_ns(2000, [&] { d.cuMemGetInfo_v2(&free, &total); }));
}

// Only where a slice is smaller than the card: natively nothing is refused.
void measure_refusal(const Session& s, uint64_t card, Line* line) {
  if (s.total_bytes() >= card) return;
  const Driver& d = s.driver;
  std::vector<CUdeviceptr> held;
  for (uint64_t bytes = 8 * kGiB; bytes >= kPage;) {
    CUdeviceptr address = 0;
    if (d.cuMemAlloc_v2(&address, bytes) == CUDA_SUCCESS)
      held.push_back(address);
    else
      bytes /= 2;
  }
  CUdeviceptr address = 0;
  line->add("refusal", each_ns(2000, [&] { d.cuMemAlloc_v2(&address, kPage); }));
  for (CUdeviceptr one : held) d.cuMemFree_v2(one);
}

int all(int64_t since) {
  Session s;
  std::string step;
  const int64_t start = now_ns();
  const CUresult code = s.open(Lookup{Door::kLink, 0, 0}, 0, &step);
  if (code != CUDA_SUCCESS) return fail(step + " " + std::to_string(code));
  const int64_t open = now_ns();
  Line line("cost");
  if (since != 0) line.add("first_context", static_cast<double>(open - since));
  line.add("open", static_cast<double>(open - start));
  measure_pool(s, &line);
  measure_plain(s, &line);
  const char* card = getenv("COST_CARD_BYTES");
  measure_refusal(s, card != nullptr ? std::strtoull(card, nullptr, 10) : 0, &line);
  line.add("ok", true).print();
  return 0;
}

int calls() {
  Line line("cost");
  line.add("plt_call", batched_ns(200, 100000, [] { ::cuMemAlloc_v2(nullptr, 0); }));
  line.add("plt_launch", batched_ns(200, 100000, [] {
             ::cuLaunchKernel(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
           }));
  line.add("ok", true).print();
  return 0;
}

// Each launch by itself, in portions that fit into the driver's queue; the first ones do not count.
template <class Body>
double launch_ns(const Session& s, CUstream stream, Body body) {
  constexpr int kPortions = 60, kPortion = 256, kFirst = 10;
  std::vector<double> times;
  for (int i = 0; i < kPortions; ++i) {
    for (int j = 0; j < kPortion; ++j) {
      const int64_t start = now_ns();
      body();
      if (i >= kFirst) times.push_back(static_cast<double>(now_ns() - start));
    }
    s.driver.cuStreamSynchronize(stream);
  }
  return median(times);
}

// The driver's own function, whatever stands before it: read from its file's table of symbols,
// since every look-up by name may be answered by somebody else. Null if there is none.
void* own_symbol(const char* name) {
  struct Library {
    uintptr_t base = 0;
    std::string path;
  } library;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        const char* file = std::strrchr(info->dlpi_name, '/');
        if (file == nullptr || std::strncmp(file, "/libcuda.so", 11) != 0) return 0;
        *static_cast<Library*>(out) = {info->dlpi_addr, info->dlpi_name};
        return 1;
      },
      &library);
  const int fd = open(library.path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) return nullptr;
  const auto bytes = static_cast<size_t>(status.st_size);
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (map == MAP_FAILED) return nullptr;
  const auto* file = static_cast<const char*>(map);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header->e_shoff);
  void* found = nullptr;
  for (unsigned int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_DYNSYM) continue;
    const char* text = file + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[i].sh_offset);
    for (size_t k = 0; k < sections[i].sh_size / sizeof(ElfW(Sym)); ++k) {
      if (symbols[k].st_shndx == SHN_UNDEF || std::strcmp(text + symbols[k].st_name, name) != 0)
        continue;
      found = reinterpret_cast<void*>(library.base + symbols[k].st_value);
    }
  }
  munmap(map, bytes);
  return found;
}

// What the hook adds to a launch: portions through it and past it in turn, in one process, so that
// neither the process nor the clock of its core makes a difference. Median of the differences.
template <class Body>
double added_ns(const Session& s, CUstream stream, decltype(&::cuLaunchKernel) hooked, Body body) {
  constexpr int kPairs = 200, kPortion = 200;
  const auto own = reinterpret_cast<decltype(&::cuLaunchKernel)>(own_symbol("cuLaunchKernel"));
  if (own == nullptr) return 0;
  std::vector<double> added;
  for (int i = 0; i < kPairs; ++i) {
    double times[2];
    for (int which : {i % 2, 1 - i % 2}) {
      times[which] = each_ns(kPortion, [&] { body(which == 0 ? own : hooked); });
      s.driver.cuStreamSynchronize(stream);
    }
    added.push_back(times[1] - times[0]);
  }
  return median(added);
}

int launch() {
  Session s;
  std::string step;
  const CUresult code = s.open(Lookup{Door::kLink, 0, 0}, 0, &step);
  if (code != CUDA_SUCCESS) return fail(step + " " + std::to_string(code));
  const Driver& d = s.driver;
  const CUfunction empty = bench::load_work(d);
  uint64_t iterations = 0;
  CUdeviceptr sink = 0;
  CUstream stream = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  d.cuMemAlloc_v2(&sink, sizeof iterations);
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  void* params[] = {&iterations, &sink};
  const auto kernel = [&] {
    d.cuLaunchKernel(empty, 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr);
  };
  d.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  kernel();
  d.cuStreamEndCapture(stream, &graph);
  if (d.cuGraphInstantiateWithFlags(&exec, graph, 0) != CUDA_SUCCESS) return fail("no graph");
  Line("cost")
      .add("launch", launch_ns(s, stream, kernel))
      .add("launch_added", added_ns(s, stream, d.cuLaunchKernel,
                                    [&](auto function) {
                                      function(empty, 1, 1, 1, 32, 1, 1, 0, stream, params,
                                               nullptr);
                                    }))
      .add("launch_cooperative",
           launch_ns(
               s, stream,
               [&] { d.cuLaunchCooperativeKernel(empty, 1, 1, 1, 32, 1, 1, 0, stream, params); }))
      .add("launch_graph", launch_ns(s, stream, [&] { d.cuGraphLaunch(exec, stream); }))
      .add("ok", true)
      .print();
  return 0;
}

// An address is the driver's own if it lies in a libcuda.
bool is_drivers(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr &&
         std::strstr(info.dli_fname, "libcuda") != nullptr;
}

int pointers() {
  uint64_t looked_up = 0, foreign = 0;
  std::string first;
  for (const Lookup& lookup : all_lookups()) {
    if (lookup.door == Door::kLink) continue;  // bound by the linker, not looked up
    Driver driver;
    std::string error;
    if (!load_driver(lookup, &driver, &error)) continue;
    const auto check = [&](const char* name, const void* address) {
      if (address == nullptr) return;
      ++looked_up;
      if (is_drivers(address)) return;
      if (foreign++ == 0) first = std::string(name) + " by " + lookup_name(lookup);
    };
#define SM_DRIVER(base, symbol, since, until) \
  check(#symbol, reinterpret_cast<const void*>(driver.symbol));
#include "common/driver_functions.def"
#undef SM_DRIVER
  }
  Line("cost")
      .add("looked_up", looked_up)
      .add("foreign", foreign)
      .add("first_foreign", first)
      .add("ok", true)
      .print();
  return 0;
}

double spawn_ns(char* const* environment) {
  char* const arguments[] = {const_cast<char*>("true"), nullptr};
  pid_t pid = 0;
  int status = 0;
  const int64_t start = now_ns();
  if (posix_spawn(&pid, "/bin/true", nullptr, nullptr, arguments, environment) != 0) return 0;
  waitpid(pid, &status, 0);
  return static_cast<double>(now_ns() - start);
}

int exec_true(int n, const char* preload) {
  std::string variable = "LD_PRELOAD=";
  variable += preload != nullptr ? preload : "";
  std::vector<char*> without, with;
  for (char** at = environ; *at != nullptr; ++at) without.push_back(*at);
  with = without;
  with.push_back(variable.data());
  without.push_back(nullptr);
  with.push_back(nullptr);
  std::vector<double> native, loaded, control;
  for (int i = 0; i < n; ++i) {
    native.push_back(spawn_ns(without.data()));
    loaded.push_back(spawn_ns(with.data()));
    control.push_back(spawn_ns(without.data()));
  }
  Line("cost")
      .add("native", median(native))
      .add("loaded", median(loaded))
      .add("control", median(control))
      .add("ok", true)
      .print();
  return 0;
}

int hold() {
  Session s;
  std::string step;
  const CUresult code = s.open(Lookup{}, 0, &step);
  if (code != CUDA_SUCCESS) return fail(step + " " + std::to_string(code));
  Line("ready").add("ok", true).print();
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "all") return all(argc > 2 ? std::strtoll(argv[2], nullptr, 10) : 0);
  if (what == "calls") return calls();
  if (what == "launch") return launch();
  if (what == "pointers") return pointers();
  if (what == "exec" && argc > 2)
    return exec_true(std::atoi(argv[2]), argc > 3 ? argv[3] : nullptr);
  if (what == "hold") return hold();
  std::fprintf(
      stderr, "usage: cost all [SINCE_NS] | calls | launch | pointers | exec N [PRELOAD] | hold\n");
  return 2;
}
