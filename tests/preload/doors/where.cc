// Says where each way of looking a symbol up leads: "WAY NAME PLACE" a line, "-" for nothing.
//
//   where [--open LIB] [--global LIB] NAMES WAY...      NAMES: file with a symbol a line
//
//   handle:LIB   dlsym on a handle of dlopen(LIB)
//   self         dlsym on a handle of dlopen(NULL)
//   default      dlsym(RTLD_DEFAULT)
//   next         dlsym(RTLD_NEXT)
//   version:LIB  dlvsym on a handle, default: version, next: version likewise
//   link         the address that the linker gave (only where_linked)
//   SYMBOL       calls SYMBOL(name), found with dlsym: a look-up by another library
#include <fstream>
#include <map>
#include <vector>

#include "doors/location.h"

#ifdef WHERE_LINKED
extern "C" {
#define NAME(symbol) [[gnu::weak]] int symbol();
#include "names.inc"
#undef NAME
}
#endif

namespace softmig::preload_test {
namespace {

// Any version will do: the driver's symbols have none.
constexpr const char* kVersion = "GLIBC_2.2.5";
using LookUp = void* (*)(const char*);

void* open_library(const std::string& name, int scope) {
  static std::map<std::string, void*> opened;
  void*& handle = opened[name];
  if (handle == nullptr) handle = dlopen(name.c_str(), RTLD_NOW | scope);
  if (handle == nullptr) fprintf(stderr, "where: %s\n", dlerror());
  return handle;
}

const void* linked(const std::string& name) {
#ifdef WHERE_LINKED
#define NAME(symbol) \
  if (name == #symbol) return reinterpret_cast<const void*>(&symbol);
#include "names.inc"
#undef NAME
#else
  (void)name;
#endif
  return nullptr;
}

const void* look_up(const std::string& way, const std::string& name) {
  const size_t colon = way.find(':');
  const std::string kind = way.substr(0, colon);
  const std::string library = colon == way.npos ? "" : way.substr(colon + 1);
  if (kind == "handle") return dlsym(open_library(library, RTLD_LOCAL), name.c_str());
  if (kind == "self") return dlsym(dlopen(nullptr, RTLD_NOW), name.c_str());
  if (kind == "default") return dlsym(RTLD_DEFAULT, name.c_str());
  if (kind == "next") return dlsym(RTLD_NEXT, name.c_str());
  if (kind == "version") {
    return dlvsym(open_library(library, RTLD_LOCAL), name.c_str(), kVersion);
  }
  if (kind == "version_default") return dlvsym(RTLD_DEFAULT, name.c_str(), kVersion);
  if (kind == "version_next") return dlvsym(RTLD_NEXT, name.c_str(), kVersion);
  if (kind == "link") return linked(name);
  const auto other = reinterpret_cast<LookUp>(dlsym(RTLD_DEFAULT, kind.c_str()));
  if (other == nullptr) {
    fprintf(stderr, "where: no way %s\n", kind.c_str());
    exit(2);
  }
  return other(name.c_str());
}

}  // namespace
}  // namespace softmig::preload_test

int main(int argc, char** argv) {
  using namespace softmig::preload_test;
  int at = 1;
  for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
    const int scope = strcmp(argv[at], "--global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL;
    if (open_library(argv[at + 1], scope) == nullptr) return 2;
  }
  if (at + 1 >= argc) return 2;
  std::vector<std::string> names;
  std::ifstream file(argv[at]);
  for (std::string name; std::getline(file, name);) names.push_back(name);
  for (at++; at < argc; at++) {
    for (const std::string& name : names) {
      printf("%s %s %s\n", argv[at], name.c_str(), location(look_up(argv[at], name)).c_str());
    }
  }
  return 0;
}
