// softmig doctor: the node agent.
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cli/doctor.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

// Root's processes of this name. False in `running` if the node shows no processes at all: an
// image.
std::vector<std::string> processes_of_root(const Node& node, const std::string& name,
                                           bool* running) {
  std::vector<std::string> found;
  *running = false;
  std::error_code ended;
  fs::directory_iterator entry(node.at("/proc"), ended);
  for (; !ended && entry != fs::directory_iterator(); entry.increment(ended)) {
    const std::string number = entry->path().filename();
    if (!std::all_of(number.begin(), number.end(), [](unsigned char c) { return isdigit(c); })) {
      continue;
    }
    *running = true;
    struct stat status = {};
    std::ifstream file(entry->path() / "comm");
    std::string line;
    if (!std::getline(file, line) || line != name) continue;
    if (stat(entry->path().c_str(), &status) == 0 && status.st_uid == 0) found.push_back(number);
  }
  return found;
}

}  // namespace

Findings check_agent(const Node& node) {
  bool running = false;
  const std::vector<std::string> agents = processes_of_root(node, "softmigd", &running);
  if (!running) return {};
  if (agents.empty()) {
    return {{Level::kNote,
             "softmigd is not seen: nobody measures what jobs hold beyond their ledgers, or names "
             "programs without the library",
             "systemctl enable --now softmigd"}};
  }
  if (agents.size() > 1) {
    return {{Level::kWarning, fmt::format("{} of softmigd run, one is right", agents.size()),
             "systemctl restart softmigd, and look who started the other"}};
  }
  return {{Level::kGood, fmt::format("softmigd runs, process {}", agents[0])}};
}

}  // namespace softmig::cli
