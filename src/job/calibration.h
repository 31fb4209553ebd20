// What `softmig calibrate` measured, kept by root in /var/lib/softmig/context_cost: one line
//   <driver version> TAB <GPU name> TAB <bytes of a context>
// per model and driver; '#' begins a comment.
#pragma once

#include <cstdint>
#include <string_view>

namespace softmig::job {

inline constexpr const char* kCalibrationFile = "/var/lib/softmig/context_cost";

// Cost in bytes of a context on the GPU with this name under the running driver. False if it was
// never measured. An empty `driver` matches every line.
bool find_context_cost(std::string_view file, std::string_view driver, std::string_view gpu_name,
                       uint64_t* bytes);
// As above, from the file and the driver of this machine. A file that is not root's is ignored.
bool calibrated_context_cost(std::string_view gpu_name, uint64_t* bytes);

}  // namespace softmig::job
