// Asks cuGetProcAddress for many (name, version, flags) and says where each answer lies:
//
//   proc NAMES VERSION...      prints "v1|v2 NAME FLAGS VERSION RESULT STATUS PLACE", where an
//                              answer is the same as for the version before only its first line
#include <fstream>
#include <map>
#include <vector>

#include "abi/cuda.h"
#include "doors/location.h"

namespace softmig::preload_test {
namespace {

constexpr const char* kDriver = "libcuda.so.1";

struct Doors {
  decltype(&::cuGetProcAddress) v1;
  decltype(&::cuGetProcAddress_v2) v2;
};

// dladdr is slow in a library of many symbols.
const std::string& place_of(const void* address) {
  static std::map<const void*, std::string> known;
  const auto [at, is_new] = known.try_emplace(address);
  if (is_new) at->second = location(address);
  return at->second;
}

std::string ask(const Doors& doors, bool second, const char* name, int version, cuuint64_t flags) {
  void* pointer = nullptr;
  auto status = static_cast<CUdriverProcAddressQueryResult>(77);
  const CUresult result = second ? doors.v2(name, &pointer, version, flags, &status)
                                 : doors.v1(name, &pointer, version, flags);
  return std::to_string(result) + " " + std::to_string(status) + " " + place_of(pointer);
}

void sweep(const Doors& doors, bool second, const std::string& name,
           const std::vector<int>& versions) {
  for (cuuint64_t flags = 0; flags <= 2; flags++) {
    std::string last;
    for (int version : versions) {
      const std::string answer = ask(doors, second, name.c_str(), version, flags);
      if (answer == last) continue;
      printf("%s %s %d %d %s\n", second ? "v2" : "v1", name.c_str(), static_cast<int>(flags),
             version, answer.c_str());
      last = answer;
    }
  }
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  if (argc < 3) return 2;
  void* driver = dlopen(kDriver, RTLD_NOW);
  if (driver == nullptr) return 2;
  const auto init = reinterpret_cast<decltype(&::cuInit)>(dlsym(driver, "cuInit"));
  if (init == nullptr || init(0) != CUDA_SUCCESS) return 3;
  const Doors doors = {
      reinterpret_cast<decltype(&::cuGetProcAddress)>(dlsym(driver, "cuGetProcAddress")),
      reinterpret_cast<decltype(&::cuGetProcAddress_v2)>(dlsym(driver, "cuGetProcAddress_v2"))};
  std::vector<int> versions;
  for (int i = 2; i < argc; i++) versions.push_back(atoi(argv[i]));
  std::ifstream file(argv[1]);
  for (std::string name; std::getline(file, name);) {
    if (doors.v1 != nullptr) sweep(doors, false, name, versions);
    if (doors.v2 != nullptr) sweep(doors, true, name, versions);
  }
  return 0;
}
