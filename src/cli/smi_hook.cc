#include "cli/smi_hook.h"

#include <elf.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "cli/child.h"
#include "cli/failure.h"
#include "cli/node_files.h"
#include "cli/preload_file.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMarker = "softmig-nvidia-smi-hook";  // every version of the hook has it
constexpr double kDivertSeconds = 60;

std::string beginning_of(const std::string& path) {
  std::string bytes(4096, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

bool is_hook(const std::string& path) {
  return beginning_of(path).find(kMarker) != std::string::npos;
}

bool is_program(const std::string& path) { return beginning_of(path).starts_with(ELFMAG); }

void move(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) throw Failure(with_errno(to, errno));
}

}  // namespace

bool SmiHook::in_front() const { return is_hook(at(kProgram)); }

bool SmiHook::was_replaced() const { return is_program(at(kMoved)) && is_program(at(kProgram)); }

void SmiHook::check() const {
  if (in_front() || is_program(at(kProgram))) return;
  throw Failure(fs::exists(at(kProgram))
                    ? fmt::format("{} is not NVIDIA's program: what is it?", kProgram)
                    : fmt::format("there is no {}", kProgram),
                "install the driver first, then the hook");
}

std::string SmiHook::put() const {
  check();
  const bool there = in_front();
  const std::string made = at(kProgram) + std::string(".softmig");
  if (there && read_file(at(kProgram)) == kSmiHookText) return "unchanged";
  if (!there) {
    divert("--add");
    // The same file under two names, so that one of them is always there.
    const std::string second = at(kMoved) + std::string(".new");
    unlink(second.c_str());
    if (link(at(kProgram).c_str(), second.c_str()) != 0) throw Failure(with_errno(second, errno));
    move(second, at(kMoved));
  }
  replace_file(made, kSmiHookText, 0755);
  move(made, at(kProgram));
  return there ? "the hook was renewed" : fmt::format("the hook; the program is now {}", kMoved);
}

bool SmiHook::take_back() const {
  if (!in_front()) return false;
  std::error_code error;
  if (fs::exists(fs::symlink_status(at(kMoved), error))) {
    move(at(kMoved), at(kProgram));
  } else {
    unlink(at(kProgram).c_str());
  }
  divert("--remove");
  return true;
}

void SmiHook::divert(const char* action) const {
  std::error_code error;
  if (!fs::exists(at("/usr/bin/dpkg-divert"), error)) return;
  std::vector<std::string> command = {"dpkg-divert"};
  if (!root_.empty()) command.insert(command.end(), {"--root", root_});
  command.insert(command.end(),
                 {"--quiet", "--local", "--no-rename", "--divert", kMoved, action, kProgram});
  const ChildResult result = run_child(command, kDivertSeconds);
  if (!result.started || result.status == 0) return;
  throw Failure(fmt::format("dpkg-divert {} {}: {}", action, kProgram, result.err));
}

}  // namespace softmig::cli
