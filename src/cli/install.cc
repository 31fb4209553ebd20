#include "cli/install.h"

#include <elf.h>
#include <fmt/core.h>
#include <sys/auxv.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/failure.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

fs::path own_folder() { return fs::path(own_path()).parent_path(); }

Elf64_Ehdr own_machine() {
  Elf64_Ehdr header = {};
  std::ifstream(own_path(), std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof header);
  return header;
}

// Why the loader would not take this file, empty if it would.
std::string trouble_with(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "no such file";
  Elf64_Ehdr header = {};
  std::ifstream file(path, std::ios::binary);
  if (!file) return "it cannot be read";
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header) ||
      std::memcmp(static_cast<const void*>(header.e_ident), ELFMAG, SELFMAG) != 0 ||
      header.e_type != ET_DYN) {
    return "it is not a shared library";
  }
  const Elf64_Ehdr own = own_machine();
  if (header.e_ident[EI_CLASS] != own.e_ident[EI_CLASS] || header.e_machine != own.e_machine) {
    return "it is for another kind of processor";
  }
  return {};
}

}  // namespace

std::string own_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (!error) return path.string();
  // A node image under construction may have no /proc.
  const auto* name = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  if (name != nullptr && *name == '/') return name;
  throw Failure("cannot find the softmig binary: /proc is not mounted");
}

std::string find_library(const std::string& given) {
  if (!given.empty()) {
    std::string path = fs::absolute(given).lexically_normal().string();
    const std::string trouble = trouble_with(path);
    if (!trouble.empty()) throw Failure(fmt::format("--library {}: {}", given, trouble));
    return path;
  }
  const fs::path here = own_folder();
  for (const fs::path& path :
       {here / "libsoftmig.so", here.parent_path() / "lib" / "libsoftmig.so",
        here.parent_path() / "lib" / "softmig" / "libsoftmig.so", fs::path(kSharedLibrary)}) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const std::string trouble = trouble_with(path.string());
    if (!trouble.empty()) throw Failure(path.string() + ": " + trouble);
    return path.string();
  }
  throw Failure(
      "libsoftmig.so was not found beside " + own_path() + ", in ../lib, or as " + kSharedLibrary,
      "build it with ./build.sh, or name it with --library PATH");
}

std::string system_preload() {
  std::ifstream file("/etc/ld.so.preload");
  std::stringstream text;
  text << file.rdbuf();
  std::string entries = text.str();
  std::replace(entries.begin(), entries.end(), ':', ' ');
  std::istringstream words(entries);
  for (std::string word; words >> word;) {
    if (fs::path(word).filename() == "libsoftmig.so") return word;
  }
  return {};
}

std::string find_simulator(const std::string& cuda) {
  const fs::path here = own_folder();
  for (const fs::path& folder :
       {here / "sim" / cuda, here.parent_path() / "lib" / "softmig" / "sim" / cuda}) {
    std::error_code error;
    if (fs::exists(folder / "libcuda.so.1", error)) return folder.string();
  }
  throw Failure("the simulated GPU for CUDA " + cuda + " was not found beside " + own_path() +
                    " or in ../lib/softmig",
                "the packages have none: build the sources, then build/softmig has it");
}

}  // namespace softmig::cli
