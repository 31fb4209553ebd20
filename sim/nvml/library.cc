// Start and end of NVML, its errors and versions.
#include "nvml/library.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>

#include "state/faults.h"

namespace softmig::sim {
namespace {

std::mutex g_mutex;
int g_users = 0;
State* g_state = nullptr;

nvmlReturn_t start(unsigned int flags) {
  if ((flags & ~(NVML_INIT_FLAG_NO_GPUS | NVML_INIT_FLAG_NO_ATTACH)) != 0)
    return NVML_ERROR_INVALID_ARGUMENT;
  if (is_absent("nvml")) return NVML_ERROR_DRIVER_NOT_LOADED;
  const std::lock_guard lock(g_mutex);
  std::string error;
  if (g_state == nullptr) g_state = State::open(&error);
  if (g_state == nullptr) {
    std::fprintf(stderr, "simulated GPU: %s\n", error.c_str());
    return NVML_ERROR_DRIVER_NOT_LOADED;
  }
  ++g_users;
  return NVML_SUCCESS;
}

constexpr struct {
  nvmlReturn_t code;
  const char* text;
} kTexts[] = {
    {NVML_SUCCESS, "Success"},
    {NVML_ERROR_UNINITIALIZED, "Uninitialized"},
    {NVML_ERROR_INVALID_ARGUMENT, "Invalid Argument"},
    {NVML_ERROR_NOT_SUPPORTED, "Not Supported"},
    {NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"},
    {NVML_ERROR_ALREADY_INITIALIZED, "Already Initialized"},
    {NVML_ERROR_NOT_FOUND, "Not Found"},
    {NVML_ERROR_INSUFFICIENT_SIZE, "Insufficient Size"},
    {NVML_ERROR_INSUFFICIENT_POWER, "Insufficient External Power"},
    {NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"},
    {NVML_ERROR_TIMEOUT, "Timeout"},
    {NVML_ERROR_IRQ_ISSUE, "Interrupt Request Issue"},
    {NVML_ERROR_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found"},
    {NVML_ERROR_FUNCTION_NOT_FOUND, "Function Not Found"},
    {NVML_ERROR_CORRUPTED_INFOROM, "Corrupted infoROM"},
    {NVML_ERROR_GPU_IS_LOST, "GPU is lost"},
    {NVML_ERROR_RESET_REQUIRED, "GPU requires reset"},
    {NVML_ERROR_OPERATING_SYSTEM, "GPU access blocked by the operating system"},
    {NVML_ERROR_LIB_RM_VERSION_MISMATCH, "Driver/library version mismatch"},
    {NVML_ERROR_IN_USE, "In use by another client"},
    {NVML_ERROR_MEMORY, "Insufficient Memory"},
    {NVML_ERROR_NO_DATA, "No data"},
    {NVML_ERROR_VGPU_ECC_NOT_SUPPORTED, "vGPU ECC not supported"},
    {NVML_ERROR_INSUFFICIENT_RESOURCES, "Insufficient Resources"},
    {NVML_ERROR_FREQ_NOT_SUPPORTED, "Frequency Not Supported"},
    {NVML_ERROR_ARGUMENT_VERSION_MISMATCH, "Argument Version Mismatch"},
    {NVML_ERROR_DEPRECATED, "Deprecated"},
    {NVML_ERROR_NOT_READY, "Not Ready"},
    {NVML_ERROR_GPU_NOT_FOUND, "No GPUs were found"},
    {NVML_ERROR_INVALID_STATE, "Invalid State"},
};

nvmlReturn_t cuda_version(int* version) {
  if (version == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *version = softmig_sim_driver_version;
  return NVML_SUCCESS;
}

const char* driver_text() {
  if (softmig_sim_driver_version < 12040) return "525.60.13";
  return softmig_sim_driver_version < 13000 ? "550.54.15" : "580.65.06";
}

}  // namespace

NvmlCall::NvmlCall(const char* function, bool started) {
  if (has_faults()) {
    if (const auto fault = injected_fault(function)) code_ = static_cast<nvmlReturn_t>(*fault);
  }
  if (failed() || !started) return;
  const std::lock_guard lock(g_mutex);
  if (g_users == 0) code_ = NVML_ERROR_UNINITIALIZED;
}

State& nvml_state() { return *g_state; }

nvmlReturn_t copy_text(const char* text, char* to, unsigned int capacity) {
  if (to == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (std::strlen(text) >= capacity) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::strcpy(to, text);
  return NVML_SUCCESS;
}

}  // namespace softmig::sim

using namespace softmig::sim;

nvmlReturn_t nvmlInit() {
  NvmlCall call(__func__, false);
  return call.failed() ? call.code() : start(0);
}

nvmlReturn_t nvmlInit_v2() {
  NvmlCall call(__func__, false);
  return call.failed() ? call.code() : start(0);
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  NvmlCall call(__func__, false);
  return call.failed() ? call.code() : start(flags);
}

nvmlReturn_t nvmlShutdown() {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  const std::lock_guard lock(g_mutex);
  --g_users;
  return NVML_SUCCESS;
}

const char* nvmlErrorString(nvmlReturn_t code) {
  for (const auto& row : kTexts) {
    if (row.code == code) return row.text;
  }
  return "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char* text, unsigned int capacity) {
  NvmlCall call(__func__);
  return call.failed() ? call.code() : copy_text(driver_text(), text, capacity);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char* text, unsigned int capacity) {
  NvmlCall call(__func__, false);
  if (call.failed()) return call.code();
  const std::string version =
      std::to_string(softmig_sim_driver_version / 1000) + "." + driver_text();
  return copy_text(version.c_str(), text, capacity);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int* version) {
  NvmlCall call(__func__, false);
  return call.failed() ? call.code() : cuda_version(version);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* version) {
  NvmlCall call(__func__, false);
  return call.failed() ? call.code() : cuda_version(version);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char* name, unsigned int capacity) {
  NvmlCall call(__func__);
  if (call.failed()) return call.code();
  if (name == nullptr || capacity == 0) return NVML_ERROR_INVALID_ARGUMENT;
  std::ifstream in("/proc/" + std::to_string(pid) + "/cmdline");
  std::string program;
  if (!std::getline(in, program, '\0')) return NVML_ERROR_NOT_FOUND;
  std::snprintf(name, capacity, "%s", program.c_str());
  return NVML_SUCCESS;
}
