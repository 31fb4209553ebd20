// Where the parts of SoftMig lie: the library and the simulated GPU, beside this very binary in a
// build tree, or in their places after an installation.
#pragma once

#include <string>
#include <vector>

namespace softmig::cli {

inline constexpr const char* kSharedLibrary = "/var/lib/shared/libsoftmig.so";

// Versions of CUDA for which the simulated driver is built, newest first.
inline constexpr const char* kSimulatedCuda[] = {"13.0", "12.4", "12.0"};

// Path of the running binary.
std::string own_path();

// libsoftmig.so: `given` if it is not empty, else beside the binary, in ../lib, or in its promised
// place. Throws Failure if there is none, or if the file is not a library for this machine: the
// dynamic loader would only warn, and the program would run without limits.
std::string find_library(const std::string& given);

// A libsoftmig.so that /etc/ld.so.preload already loads into every process; empty if there is none.
std::string system_preload();

// Folder with the simulated libcuda.so.1 and libnvidia-ml.so.1 of that version of CUDA.
std::string find_simulator(const std::string& cuda);

}  // namespace softmig::cli
