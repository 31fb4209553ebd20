// The environment of a program that is about to be started.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/nvml.h"

namespace softmig::cli {

class Environment {
 public:
  // A copy of this process's.
  Environment();

  void set(std::string_view name, std::string_view value);
  void remove(std::string_view name);
  // Removes NAME and NAME_0 ... NAME_<any number>.
  void remove_per_device(std::string_view name);
  // Empty if it is not set.
  std::string get(std::string_view name) const;
  // Puts `entry` before the entries of a list such as LD_PRELOAD.
  void prepend(std::string_view name, std::string_view entry, char separator);

  // "NAME=value" each.
  const std::vector<std::string>& entries() const { return entries_; }

 private:
  std::vector<std::string> entries_;
};

// Puts the library first in LD_PRELOAD, and drops any other libsoftmig.so from it.
void preload(std::string_view library, Environment* environment);

// Which devices a program may see after "--device WHICH" in this environment: WHICH is a list of
// CUDA's numbers, counted among the devices that are visible now, or of UUIDs. `nvml` (may be null)
// knows which devices there are. Throws Failure.
std::string visible_devices(const std::string& which, const Environment& environment,
                            const Nvml* nvml);

}  // namespace softmig::cli
