// The driver's exported launch functions: each is known here, and without a limit of GPU time
// nothing stands in front of one.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "launches/checks.h"

namespace softmig::gpu_test {

const std::vector<LaunchSymbol> kLaunchSymbols = {
    {"cuGraphLaunch", "route_graph", nullptr},
    {"cuGraphLaunch_ptsz", "route_graph_ptsz", nullptr},
    {"cuLaunch", "route_old_launch", nullptr},
    {"cuLaunchCooperativeKernel", "route_cooperative", nullptr},
    {"cuLaunchCooperativeKernelMultiDevice", "route_multi_device", nullptr},
    {"cuLaunchCooperativeKernel_ptsz", "route_cooperative_ptsz", nullptr},
    {"cuLaunchGrid", "route_old_grid", nullptr},
    {"cuLaunchGridAsync", "route_old_grid_async", nullptr},
    {"cuLaunchHostFunc", nullptr, "runs on the host"},
    {"cuLaunchHostFunc_ptsz", nullptr, "runs on the host"},
    {"cuLaunchHostFunc_v2", nullptr, "runs on the host"},
    {"cuLaunchHostFunc_v2_ptsz", nullptr, "runs on the host"},
    {"cuLaunchKernel", "route_kernel", nullptr},
    {"cuLaunchKernelEx", "route_ex", nullptr},
    {"cuLaunchKernelEx_ptsz", "route_ex_ptsz", nullptr},
    {"cuLaunchKernel_ptsz", "route_kernel_ptsz", nullptr},
};

namespace {

// The names that a library's file exports.
std::vector<std::string> exported_names(const char* path) {
  std::vector<std::string> names;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) return names;
  const auto bytes = static_cast<size_t>(status.st_size);
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (map == MAP_FAILED) return names;
  const auto* file = static_cast<const char*>(map);
  ElfW(Ehdr) header;
  std::memcpy(&header, file, sizeof header);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header.e_shoff);
  for (unsigned int i = 0; i < header.e_shnum; ++i) {
    if (sections[i].sh_type != SHT_DYNSYM) continue;
    const char* text = file + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[i].sh_offset);
    for (size_t k = 0; k < sections[i].sh_size / sizeof(ElfW(Sym)); ++k)
      if (symbols[k].st_shndx != SHN_UNDEF) names.emplace_back(text + symbols[k].st_name);
  }
  munmap(map, bytes);
  return names;
}

// Where the driver's file is; null if it cannot be said.
const char* driver_path() {
  const link_map* map = nullptr;
  if (driver_handle() == nullptr || dlinfo(driver_handle(), RTLD_DI_LINKMAP, &map) != 0)
    return nullptr;
  return map->l_name;
}

bool is_launch(const std::string& name) {
  return name.compare(0, 2, "cu") == 0 && name.find("Launch") != std::string::npos;
}

std::vector<std::string> launch_symbols(Checks::Report& report) {
  const char* path = driver_path();
  std::vector<std::string> names;
  if (report.expect(path != nullptr, "the driver's file is not known"))
    names = exported_names(path);
  names.erase(std::remove_if(names.begin(), names.end(),
                             [](const std::string& name) { return !is_launch(name); }),
              names.end());
  report.expect(names.size() >= 14, "few launch functions: " + std::to_string(names.size()));
  return names;
}

void every_symbol_is_known(Checks::Report& report) {
  for (const std::string& name : launch_symbols(report)) {
    const auto row = std::find_if(kLaunchSymbols.begin(), kLaunchSymbols.end(),
                                  [&](const LaunchSymbol& one) { return name == one.name; });
    report.expect(row != kLaunchSymbols.end(), name + " is exported, and not known here");
  }
}

bool is_in_driver(const void* address) {
  Dl_info info{};
  const char* path = driver_path();
  return dladdr(address, &info) != 0 && path != nullptr && std::strcmp(info.dli_fname, path) == 0;
}

// "cuLaunchKernel_ptsz" as cuGetProcAddress names it.
struct Asked {
  std::string name;
  cuuint64_t flags;
};

Asked asked_for(const std::string& symbol) {
  const bool per_thread = symbol.size() > 5 && symbol.compare(symbol.size() - 5, 5, "_ptsz") == 0;
  std::string name = per_thread ? symbol.substr(0, symbol.size() - 5) : symbol;
  return {name, static_cast<cuuint64_t>(per_thread ? 2 : 1)};
}

// TEST_HOOKED names the functions that are ours nevertheless: cuGraphLaunch counts the memory that
// a graph takes.
void nothing_in_the_way(Checks::Report& report) {
  const char* hooked = std::getenv("TEST_HOOKED");
  using Proc = decltype(&::cuGetProcAddress_v2);
  // The slice takes part from the first call on, if it does.
  report.result(cu().cuInit(0), CUDA_SUCCESS, "cuInit");
  const auto proc = reinterpret_cast<Proc>(dlsym(driver_handle(), "cuGetProcAddress_v2"));
  for (const std::string& symbol : launch_symbols(report)) {
    const Asked asked = asked_for(symbol);
    const bool ours = hooked != nullptr && asked.name == hooked;
    CUdriverProcAddressQueryResult status{};
    void* by_proc = nullptr;
    const bool asked_well =
        proc != nullptr && proc(asked.name.c_str(), &by_proc, 13000, asked.flags, &status) == 0;
    const std::pair<const char*, void*> ways[] = {
        {"dlsym on a handle", dlsym(driver_handle(), symbol.c_str())},
        {"dlsym(RTLD_DEFAULT)", dlsym(RTLD_DEFAULT, symbol.c_str())},
        {"cuGetProcAddress", asked_well ? by_proc : nullptr},
    };
    for (const auto& [way, found] : ways) {
      if (found == nullptr) continue;
      report.expect(is_in_driver(found) != ours,
                    symbol + " by " + way + (ours ? " is the driver's" : " is not the driver's"));
    }
  }
}

}  // namespace

void add_symbol_checks(Checks* checks) {
  checks->add("every_symbol_is_known", every_symbol_is_known);
  checks->add("nothing_in_the_way", nothing_in_the_way);
}

}  // namespace softmig::gpu_test
