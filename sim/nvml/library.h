// What every NVML function begins with.
#pragma once

#include "abi/nvml.h"
#include "state/state.h"

namespace softmig::sim {

// Applies the faults for `function`; with `started` also checks that nvmlInit was called.
class NvmlCall {
 public:
  explicit NvmlCall(const char* function, bool started = true);
  bool failed() const { return code_ != NVML_SUCCESS; }
  nvmlReturn_t code() const { return code_; }

 private:
  nvmlReturn_t code_ = NVML_SUCCESS;
};

State& nvml_state();

// The index of a handle, or -1.
int device_index(nvmlDevice_t handle);

// As much of `text` as fits; INSUFFICIENT_SIZE where it does not.
nvmlReturn_t copy_text(const char* text, char* to, unsigned int capacity);

// Of this variant: 12040 and so on.
extern "C" const int softmig_sim_driver_version;

}  // namespace softmig::sim
