// What the programs here begin with: their command lines, and a slice of their own.
#pragma once

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace softmig::chaos {

// --NAME VALUE; `take` says whether it can use the value.
struct Option {
  const char* name;
  std::function<bool(std::string_view)> take;
};

// An option that is a number above 0.
template <typename Number>
Option number_option(const char* name, Number* value) {
  return {name, [value](std::string_view text) {
            const auto [end, error] =
                std::from_chars(text.data(), text.data() + text.size(), *value);
            return error == std::errc() && end == text.data() + text.size() && *value > 0;
          }};
}

// Ends the program with status 2 where a word is no option, or the one behind it no value.
inline void read_options(int argc, char** argv, const char* usage,
                         const std::vector<Option>& options) {
  const auto give_up = [usage](const char* word) {
    std::fprintf(stderr, "\"%s\" makes no sense; usage: %s\n", word, usage);
    std::exit(2);
  };
  for (int i = 1; i < argc; i += 2) {
    const Option* wanted = nullptr;
    for (const Option& option : options)
      if (option.name == std::string_view(argv[i])) wanted = &option;
    if (wanted == nullptr || i + 1 == argc) give_up(argv[i]);
    if (!wanted->take(argv[i + 1])) give_up(argv[i + 1]);
  }
}

// Variables for a slice with a limit of `memory` in a folder of its own, which ends with this.
class OwnSlice {
 public:
  OwnSlice(const char* name, const char* memory)
      : folder_(std::string("/tmp/softmig-") + name + "-XXXXXX") {
    if (mkdtemp(folder_.data()) == nullptr) {
      std::perror(folder_.c_str());
      std::exit(1);
    }
    for (const char* job : {"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_TMPDIR"}) unsetenv(job);
    setenv("SOFTMIG_REGION", region().c_str(), 1);
    setenv("SOFTMIG_LOG_FILE", log().c_str(), 1);
    setenv("CUDA_DEVICE_MEMORY_LIMIT", memory, 1);
  }
  ~OwnSlice() {
    unlink(region().c_str());
    unlink(log().c_str());
    rmdir(folder_.c_str());
  }
  OwnSlice(const OwnSlice&) = delete;
  OwnSlice& operator=(const OwnSlice&) = delete;

 private:
  std::string region() const { return folder_ + "/region"; }
  std::string log() const { return folder_ + "/region.log"; }

  std::string folder_;
};

}  // namespace softmig::chaos
