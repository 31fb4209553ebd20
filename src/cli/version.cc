// softmig version: what is installed here.
#include <fmt/core.h>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/install.h"

namespace softmig::cli {
namespace {

std::string library_text() {
  try {
    return find_library("");
  } catch (const Failure& failure) {
    return failure.what();
  }
}

}  // namespace

void add_version(CLI::App& app, int* status) {
  CLI::App* version = app.add_subcommand("version", "Show the version and where the library is");
  version->callback([status] {
    const std::string everywhere = system_preload();
    fmt::print("softmig {}\n", SOFTMIG_VERSION);
    fmt::print("library      {}\n", library_text());
    fmt::print("system-wide  {}\n",
               everywhere.empty() ? "no (not in /etc/ld.so.preload)" : everywhere);
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
