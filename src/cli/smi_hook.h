// nvidia-smi-hook.sh in front of nvidia-smi: the hook takes the place of /usr/bin/nvidia-smi, and
// the program moves to /usr/bin/nvidia-smi.real, where the hook finds it.
#pragma once

#include <string>

namespace softmig::cli {

class SmiHook {
 public:
  // `root` is the folder of a node image, empty for this system.
  explicit SmiHook(std::string root) : root_(std::move(root)) {}

  // Whether nvidia-smi is the hook, of this or another version.
  bool in_front() const;
  // Whether the program was moved away and something else than the hook took its place: an update
  // of the driver does that where the package manager knows no diversions.
  bool was_replaced() const;

  // Throws Failure unless put() can do its work.
  void check() const;
  // Puts the hook in front, or this version of it. At no moment there is no nvidia-smi. Returns
  // what was done. Throws Failure.
  std::string put() const;
  // Puts the program back. False if the hook was not in front. Throws Failure.
  bool take_back() const;

  static constexpr const char* kProgram = "/usr/bin/nvidia-smi";
  static constexpr const char* kMoved = "/usr/bin/nvidia-smi.real";

 private:
  std::string at(const std::string& path) const { return root_ + path; }
  // dpkg then unpacks a newer driver's nvidia-smi where the hook looks for it.
  void divert(const char* action) const;

  std::string root_;
};

}  // namespace softmig::cli
