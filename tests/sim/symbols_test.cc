// What the driver variants export, what cuGetProcAddress answers, and faults.
#include <dlfcn.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

using SymbolsTest = SimTest;

struct Row {
  std::string name;
  int since;
};

std::vector<Row> rows_of(const std::string& def) {
  std::vector<Row> rows;
  std::ifstream in(std::string(SIM_SYMBOLS) + "/" + def);
  for (std::string line; std::getline(in, line);) {
    const size_t open = line.find('('), comma = line.find(", ");
    if (line.rfind("SIM_SYMBOL", 0) != 0) continue;
    rows.push_back({line.substr(open + 1, comma - open - 1), std::stoi(line.substr(comma + 2))});
  }
  return rows;
}

class VariantTest : public SimTest, public testing::WithParamInterface<int> {
 protected:
  std::string folder() const {
    return std::string(SIM_FOLDER) + "/" + std::to_string(GetParam() / 1000) + "." +
           std::to_string(GetParam() / 10 % 100);
  }
};

TEST_P(VariantTest, ExportsWhatItsDriverHas) {
  for (const char* library : {"cuda", "nvml"}) {
    const std::string file = std::string(library) == "cuda" ? "libcuda.so.1" : "libnvidia-ml.so.1";
    void* handle = dlopen((folder() + "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(handle, nullptr) << dlerror();
    for (const Row& row : rows_of(std::string(library) + ".def")) {
      EXPECT_EQ(dlsym(handle, row.name.c_str()) != nullptr, row.since <= GetParam()) << row.name;
    }
    EXPECT_EQ(dlsym(handle, "softmig_sim_driver_version"), nullptr) << "nothing of our own";
  }
}

TEST_P(VariantTest, SaysItsVersion) {
  void* handle = dlopen((folder() + "/libcuda.so.1").c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(handle, nullptr) << dlerror();
  int version = 0;
  reinterpret_cast<decltype(&cuDriverGetVersion)>(dlsym(handle, "cuDriverGetVersion"))(&version);
  EXPECT_EQ(version, GetParam());
  const auto get =
      reinterpret_cast<decltype(&cuGetProcAddress_v2)>(dlsym(handle, "cuGetProcAddress_v2"));
  CUdriverProcAddressQueryResult status{};
  void* fn = nullptr;
  const CUresult code = get("cuCtxCreate", &fn, 13000, 0, &status);
  EXPECT_CUDA(code);
  EXPECT_EQ(fn, dlsym(handle, GetParam() >= 12050 ? "cuCtxCreate_v4" : "cuCtxCreate_v3"));
  EXPECT_EQ(get("cuCtxSynchronize", &fn, 13000, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(fn, dlsym(handle, GetParam() >= 13000 ? "cuCtxSynchronize_v2" : "cuCtxSynchronize"));
}

INSTANTIATE_TEST_SUITE_P(All, VariantTest, testing::Values(12000, 12040, 13000),
                         [](const auto& info) { return "Cuda" + std::to_string(info.param); });

// Every look-up that was recorded on the card.
TEST_F(SymbolsTest, ProcAddressAnswersAsTheCard) {
  std::ifstream in(SIM_PROCADDR);
  size_t checked = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string name, flags, step;
    fields >> name >> flags;
    std::map<int, std::string> steps;
    while (fields >> step) steps[std::stoi(step)] = step.substr(step.find(':') + 1);
    for (char flag : flags) {
      for (int version : {2000,  3010,  3020,  4000,  5000,  6050,  7000,  8000,  9000,  10000,
                          10010, 11000, 11010, 11020, 11030, 11040, 11060, 11070, 11080, 12000,
                          12010, 12020, 12030, 12040, 12050, 12060, 12080, 12090, 13000}) {
        if (version == 3010) continue;  // not recorded
        const std::string& expected = std::prev(steps.upper_bound(version))->second;
        void* fn = nullptr;
        CUdriverProcAddressQueryResult status{};
        const CUresult code = cuGetProcAddress_v2(name.c_str(), &fn, version,
                                                  static_cast<cuuint64_t>(flag - '0'), &status);
        ++checked;
        if (expected == "-") {
          ASSERT_EQ(code, CUDA_ERROR_NOT_FOUND) << name << " " << flag << " " << version;
          ASSERT_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)
              << name << " " << flag << " " << version;
          ASSERT_EQ(fn, nullptr);
        } else {
          ASSERT_EQ(fn, dlsym(RTLD_DEFAULT, expected.c_str()))
              << name << " " << flag << " " << version;
          ASSERT_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
        }
        void* old = nullptr;
        ASSERT_EQ(
            cuGetProcAddress(name.c_str(), &old, version, static_cast<cuuint64_t>(flag - '0')),
            code);
        ASSERT_EQ(old, fn);
      }
    }
  }
  EXPECT_EQ(checked, 392u * 3 * 28);
}

TEST_F(SymbolsTest, UnknownNamesAreNotFound) {
  void* fn = &fn;
  CUdriverProcAddressQueryResult status{};
  EXPECT_EQ(cuGetProcAddress_v2("cuNothing", &fn, 13000, 0, &status), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  EXPECT_EQ(fn, nullptr);
  EXPECT_EQ(cuGetProcAddress_v2("cuMemAlloc_v2", &fn, 13000, 0, &status), CUDA_ERROR_NOT_FOUND)
      << "plain names only";
  EXPECT_EQ(cuGetProcAddress_v2("cuMemAlloc", &fn, 13000, 8, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuGetProcAddress_v2(nullptr, &fn, 13000, 0, &status), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(SymbolsTest, TheRuntimesPrivateTablesAreRefusedWithOneLine) {
  const CUuuid integrity = {{'\xd4', '\x08', '\x20', '\x55', '\xbd', '\xe6', '\x70', '\x4b', '\x8d',
                             '\x34', '\xba', '\x12', '\x3c', '\x66', '\xe1', '\xf2'}};
  const void* table = &table;
  testing::internal::CaptureStderr();
  EXPECT_EQ(cuGetExportTable(&table, &integrity), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(cuGetExportTable(&table, &integrity), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(table, nullptr);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("driver API"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(SymbolsTest, WhatIsNotModelledSaysSo) {
  const auto stub = reinterpret_cast<CUresult (*)()>(dlsym(RTLD_DEFAULT, "cuTexRefCreate"));
  ASSERT_NE(stub, nullptr);
  EXPECT_EQ(stub(), CUDA_ERROR_NOT_SUPPORTED);
}

// --- faults: read at the first call, so each test is a program of its own

TEST_F(SymbolsTest, ACallFailsWhenItIsAskedTo) {
  setenv("SOFTMIG_SIM_FAULT", "cuMemAlloc_v2:fail=2@3,cuStream*:fail=999@1,cuEventCreate:fail=4@2+",
         1);
  ASSERT_CUDA(start());
  CUdeviceptr address = 0;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
  EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
  EXPECT_EQ(cuStreamCreate(&stream, 0), CUDA_ERROR_UNKNOWN);
  EXPECT_CUDA(cuStreamCreate(&stream, 0));
  EXPECT_CUDA(cuEventCreate(&event, 0));
  EXPECT_EQ(cuEventCreate(&event, 0), CUDA_ERROR_DEINITIALIZED);
  EXPECT_EQ(cuEventCreate(&event, 0), CUDA_ERROR_DEINITIALIZED);
}

TEST_F(SymbolsTest, ACallIsSlowWhenItIsAskedTo) {
  setenv("SOFTMIG_SIM_FAULT", "cuMemCreate:slow=50ms", 1);
  ASSERT_CUDA(cuInit(0));
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemGenericAllocationHandle handle = 0;
  const double begin = now_ms();
  EXPECT_CUDA(cuMemCreate(&handle, 2 * kMiB, &prop, 0));
  EXPECT_GE(now_ms() - begin, 49);
}

TEST_F(SymbolsTest, FaultsComeFromAFileThatChanges) {
  const std::string path = file("faults");
  setenv("SOFTMIG_SIM_FAULT", ("@" + path).c_str(), 1);
  ASSERT_CUDA(start());
  CUdeviceptr address = 0;
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
  std::ofstream(path) << "cuMemAlloc_v2:fail=2\n";
  EXPECT_EQ(cuMemAlloc_v2(&address, 1), CUDA_ERROR_OUT_OF_MEMORY);
  ASSERT_EQ(remove(path.c_str()), 0);
  EXPECT_CUDA(cuMemAlloc_v2(&address, 1));
}

TEST_F(SymbolsTest, NvmlIsNotThereWhenItIsAskedTo) {
  setenv("SOFTMIG_SIM_FAULT", "nvml:absent", 1);
  EXPECT_EQ(nvmlInit_v2(), NVML_ERROR_DRIVER_NOT_LOADED);
  EXPECT_CUDA(cuInit(0));
}

TEST_F(SymbolsTest, ASymbolIsMissingWhenItIsAskedTo) {
  Child child([](Child&) {
    setenv("SOFTMIG_SIM_FAULT", "missing=cuMemPoolCreate", 1);
    void* handle =
        dlopen((std::string(SIM_FOLDER) + "/12.4/libcuda.so.1").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr || dlsym(handle, "cuInit") == nullptr) return 2;
    if (dlsym(handle, "cuMemPoolCreate") != nullptr) return 3;
    const auto get =
        reinterpret_cast<decltype(&cuGetProcAddress_v2)>(dlsym(handle, "cuGetProcAddress_v2"));
    CUdriverProcAddressQueryResult status{};
    void* fn = nullptr;
    return get("cuMemPoolCreate", &fn, 13000, 0, &status) == CUDA_ERROR_NOT_FOUND && fn == nullptr
               ? 0
               : 4;
  });
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace softmig::sim_test
