// The registry's table against what a driver answers: for every hook, version and flag the row that
// find_for_version names must be the one whose driver function cuGetProcAddress gives.
//
//   agree driver LIB NAMES VERSION...   asks a driver; NAMES: file with a symbol a line
//   agree measured FILE VERSION...      FILE: "name flags version symbol" as a real driver
//   answered,
//                                       for the versions at which the answer changes
//
// Contains the hooks themselves, so that these very objects are tested. Exit status 1: they
// disagree.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "hook/registry.h"

namespace softmig::preload_test {
namespace {

int problems = 0, compared = 0;

const char* name_of(const hook::Entry* entry) { return entry != nullptr ? entry->name() : "-"; }

void compare(const std::string& name, int version, uint64_t flags, const hook::Entry* driver) {
  const hook::Entry* table = hook::find_for_version(name.c_str(), version, flags);
  compared++;
  if (table == driver) return;
  problems++;
  printf("FAIL %s %d flags %d: the driver's is %s, the table's %s\n", name.c_str(), version,
         static_cast<int>(flags), name_of(driver), name_of(table));
}

void ask_driver(const char* library, const char* names_file, const std::vector<int>& versions) {
  using GetProcAddress = decltype(&::cuGetProcAddress_v2);
  if (dlopen(library, RTLD_NOW) == nullptr) exit(2);
  const auto init = hook::driver_symbol(hook::Library::kCuda, "cuInit");
  const auto get = hook::driver_symbol(hook::Library::kCuda, "cuGetProcAddress_v2");
  if (get == nullptr || reinterpret_cast<decltype(&::cuInit)>(init)(0) != CUDA_SUCCESS) exit(3);
  std::ifstream names(names_file);
  for (std::string name; std::getline(names, name);) {
    for (int version : versions) {
      for (uint64_t flags = 0; flags <= 2; flags++) {
        void* pointer = nullptr;
        CUdriverProcAddressQueryResult status;
        const CUresult result =
            reinterpret_cast<GetProcAddress>(get)(name.c_str(), &pointer, version, flags, &status);
        const bool found = result == CUDA_SUCCESS && pointer != nullptr;
        compare(name, version, flags, found ? hook::find_by_driver_address(pointer) : nullptr);
      }
    }
  }
}

void read_measured(const char* file, const std::vector<int>& versions) {
  std::map<std::pair<std::string, uint64_t>, std::map<int, std::string>> answers;
  std::ifstream rows(file);
  std::string name, symbol;
  uint64_t flags = 0;
  for (int version = 0; rows >> name >> flags >> version >> symbol;) {
    answers[{name, flags}][version] = symbol;
  }
  for (const auto& [question, changes] : answers) {
    for (int version : versions) {
      const auto next = changes.upper_bound(version);
      if (next == changes.begin()) continue;
      const std::string& answer = std::prev(next)->second;
      compare(question.first, version, question.second, hook::find(answer.c_str()));
    }
  }
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  const bool driver = argc > 4 && strcmp(argv[1], "driver") == 0;
  if (!driver && (argc < 4 || strcmp(argv[1], "measured") != 0)) return 2;
  std::vector<int> versions;
  for (int i = driver ? 4 : 3; i < argc; i++) versions.push_back(atoi(argv[i]));
  if (driver) ask_driver(argv[2], argv[3], versions);
  if (!driver) read_measured(argv[2], versions);
  printf("%d questions, %d answered differently\n", compared, problems);
  return problems != 0 || compared == 0 ? 1 : 0;
}
