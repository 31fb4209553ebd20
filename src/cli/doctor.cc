// softmig doctor: is this node fit for slices, and if not, what is to be done? It changes nothing.
#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/install.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "cli/preload_file.h"
#include "cli/trial.h"
#include "job/calibration.h"
#include "job/config.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

enum class Level { kGood, kNote, kWarning, kBad };
constexpr const char* kLevelNames[] = {"ok", "note", "warning", "BAD"};

struct Finding {
  Level level;
  std::string what;
  std::string advice = {};
};
using Findings = std::vector<Finding>;

struct Node {
  std::string root;  // where the system lies; empty: here
  std::string slurm_conf;
  std::string at(const std::string& path) const { return root + path; }
};

std::string mode_text(const struct stat& status) {
  return fmt::format("{:o}, owner {}", status.st_mode & 07777, status.st_uid);
}

// A folder that must be root's and have one of these modes.
Finding folder(const Node& node, const char* path, std::vector<unsigned> modes) {
  struct stat status = {};
  if (stat(node.at(path).c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return {Level::kBad, fmt::format("{} is not there", path), "softmig install makes it"};
  }
  const bool right =
      status.st_uid == 0 && std::count(modes.begin(), modes.end(), status.st_mode & 07777) != 0;
  if (right) return {Level::kGood, fmt::format("{} is there, mode {}", path, mode_text(status))};
  return {Level::kBad,
          fmt::format("{} has mode {}; {:o}, owner 0 is right", path, mode_text(status), modes[0]),
          "softmig install sets it"};
}

std::vector<std::string> preload_entries(const std::string& text) {
  std::vector<std::string> entries;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(0, line.find('#'));
    std::replace(line.begin(), line.end(), ':', ' ');
    std::istringstream words(line);
    for (std::string word; words >> word;) entries.push_back(word);
  }
  return entries;
}

Findings check_library(const Node& node) {
  Findings found;
  struct stat status = {};
  const std::string path = node.at(kSharedLibrary);
  if (lstat(path.c_str(), &status) != 0) {
    return {{Level::kBad, fmt::format("{} is not there", kSharedLibrary), "softmig install"}};
  }
  if (!S_ISREG(status.st_mode) || status.st_uid != 0 || (status.st_mode & 07777) != 0644) {
    found.push_back({Level::kBad,
                     fmt::format("{} has mode {}; a file of root with 644 is right", kSharedLibrary,
                                 mode_text(status)),
                     "softmig install puts it right"});
  }
  const std::string trouble = try_out({.command = {"/bin/true"}, .preload = path});
  found.push_back(trouble.empty() ? Finding{Level::kGood, "the library loads and says nothing"}
                                  : Finding{Level::kBad, "/bin/true with the library: " + trouble,
                                            "softmig uninstall; then install a build that fits"});
  return found;
}

Findings check_preload(const Node& node) {
  const std::vector<std::string> entries = preload_entries(read_file(node.at(kPreloadFile)));
  const auto is_ours = [](const std::string& entry) {
    return fs::path(entry).filename() == "libsoftmig.so";
  };
  const auto count = std::count_if(entries.begin(), entries.end(), is_ours);
  Findings found;
  if (count == 0) {
    return {{Level::kBad, fmt::format("{} does not name the library", kPreloadFile),
             "softmig install: without it nothing is limited"}};
  }
  if (count > 1) {
    found.push_back({Level::kBad, fmt::format("{} names the library {} times", kPreloadFile, count),
                     "softmig install leaves one line"});
  }
  for (const std::string& entry : entries) {
    if (!is_ours(entry) || entry == kSharedLibrary) continue;
    found.push_back({Level::kWarning, fmt::format("{} loads {}", kPreloadFile, entry),
                     fmt::format("{} is the promised place", kSharedLibrary)});
  }
  struct stat status = {};
  stat(node.at(kPreloadFile).c_str(), &status);
  if (status.st_uid != 0 || (status.st_mode & 07777) != 0644) {
    found.push_back(
        {Level::kBad,
         fmt::format("{} has mode {}; 644, owner 0 is right", kPreloadFile, mode_text(status)),
         fmt::format("chown root {0}; chmod 644 {0}", kPreloadFile)});
  }
  if (found.empty()) found.push_back({Level::kGood, "every program loads the library"});
  return found;
}

Findings check_folders(const Node& node) {
  Findings found = {folder(node, "/run/softmig", {0755}),
                    folder(node, "/var/log/softmig", {01777, 0775})};
  if (!fs::exists(node.at("/etc/tmpfiles.d/softmig.conf"))) {
    found.push_back({Level::kWarning, "/run/softmig will not be there after a boot",
                     "softmig install writes /etc/tmpfiles.d/softmig.conf"});
  }
  return found;
}

Findings check_driver(const Node& node) {
  if (!node.root.empty()) return {};
  std::string error;
  const std::unique_ptr<Nvml> nvml = Nvml::open(&error);
  if (nvml == nullptr) {
    return {{Level::kWarning, "no driver answers: " + error,
             "on a node with GPUs: is the driver installed and loaded?"}};
  }
  const std::string driver = nvml->driver_version();
  Findings found;
  constexpr int kFirstGoodDriver = 525;  // the first for CUDA 12.0
  if (std::atoi(driver.c_str()) < kFirstGoodDriver) {
    found.push_back({Level::kBad, fmt::format("driver {} is too old", driver),
                     fmt::format("slices need {} or newer (CUDA 12.0)", kFirstGoodDriver)});
  }
  std::map<std::string, int> models;
  for (const NvmlDevice& device : nvml->devices()) models[device.name]++;
  for (const auto& [name, count] : models) {
    uint64_t bytes = 0;
    const bool measured = job::calibrated_context_cost(name, &bytes);
    found.push_back(
        measured ? Finding{Level::kGood, fmt::format("{} x {}, driver {}, a context takes {}",
                                                     count, name, driver, size_text(bytes))}
                 : Finding{Level::kNote,
                           fmt::format("{} x {}, driver {}: the cost of a context is a guess",
                                       count, name, driver),
                           "softmig calibrate measures it"});
  }
  return found;
}

// slurm.conf as far as it goes: KEY=VALUE, the last one counts, lines joined by a backslash.
std::map<std::string, std::string> read_slurm_conf(const std::string& path) {
  std::map<std::string, std::string> values;
  std::ifstream file(path);
  std::string joined;
  for (std::string line; std::getline(file, line);) {
    line = line.substr(0, line.find('#'));
    joined += line;
    if (!joined.empty() && joined.back() == '\\') {
      joined.pop_back();
      continue;
    }
    std::istringstream words(joined);
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos) continue;
      std::string key = word.substr(0, equals);
      std::transform(key.begin(), key.end(), key.begin(), ::tolower);
      values[key] = word.substr(equals + 1);
    }
    joined.clear();
  }
  return values;
}

bool has_word(std::string list, std::string word) {
  std::transform(list.begin(), list.end(), list.begin(), ::tolower);
  std::replace(list.begin(), list.end(), ',', ' ');
  std::istringstream words(list);
  for (std::string one; words >> one;) {
    if (one == word) return true;
  }
  return false;
}

Findings check_slurm(const Node& node) {
  const std::string path = node.at(node.slurm_conf);
  if (!fs::exists(path)) {
    return {{Level::kNote, fmt::format("no {}: Slurm is not looked at", node.slurm_conf),
             "--slurm-conf FILE names another one"}};
  }
  auto conf = read_slurm_conf(path);
  Findings found;
  const auto expect = [&](bool good, const std::string& what, const std::string& advice) {
    found.push_back({good ? Level::kGood : Level::kBad, what, good ? "" : advice});
  };
  const std::string flags = conf["prologflags"];
  expect(has_word(flags, "alloc") || has_word(flags, "contain"), "PrologFlags=" + flags,
         "PrologFlags=Alloc or Contain: else some jobs start without the prolog");
  expect(has_word(conf["grestypes"], "gpu") && has_word(conf["grestypes"], "shard"),
         "GresTypes=" + conf["grestypes"], "GresTypes=gpu,shard");
  for (const char* script : {"prolog", "epilog"}) {
    const std::string value = conf[script];
    expect(!value.empty(), fmt::format("{}={}", script, value),
           fmt::format("{0}=/etc/slurm/{0}.d/* with {0}_softmig.sh in it", script));
  }
  if (!has_word(conf["jobsubmitplugins"], "lua")) {
    found.push_back({Level::kWarning, "JobSubmitPlugins=" + conf["jobsubmitplugins"],
                     "with lua and job_submit_softmig.lua users can ask for gpu:l40s.4:1"});
  }
  if (conf["proctracktype"] != "proctrack/cgroup") {
    found.push_back({Level::kWarning, "ProctrackType=" + conf["proctracktype"],
                     "with proctrack/cgroup a process cannot deny its job"});
  }
  return found;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// What an ordinary user could do to get past the library.
Findings check_escapes(const Node& node) {
  Findings found;
  const std::string allowed = first_line(node.at("/proc/sys/kernel/unprivileged_userns_clone"));
  const std::string most = first_line(node.at("/proc/sys/user/max_user_namespaces"));
  if (allowed != "0" && most != "0" && !most.empty()) {
    found.push_back({Level::kWarning,
                     "users can make user namespaces, and there mount over /etc/ld.so.preload",
                     "user.max_user_namespaces=0, where containers do not need them"});
  }
  std::ifstream mounts(node.at("/proc/mounts"));
  for (std::string line; std::getline(mounts, line);) {
    if (line.rfind("proc /proc ", 0) != 0 || line.find("hidepid=") == std::string::npos ||
        line.find("hidepid=0") != std::string::npos ||
        line.find("hidepid=off") != std::string::npos)
      continue;
    found.push_back({Level::kNote, "/proc hides other users' processes (hidepid)",
                     "slices count on: a job's processes have one user"});
  }
  return found;
}

Findings check_containers(const Node& node) {
  Findings found;
  for (const char* name : {"apptainer", "singularity", "enroot", "podman", "docker"}) {
    for (const char* folder : {"/usr/bin/", "/usr/local/bin/"}) {
      if (!fs::exists(node.at(folder + std::string(name)))) continue;
      found.push_back({Level::kNote, fmt::format("{} is installed", name),
                       fmt::format("containers have their own /etc: bind {} and {} into them",
                                   kPreloadFile, kSharedLibrary)});
      break;
    }
  }
  return found;
}

struct Section {
  const char* name;
  Findings (*check)(const Node&);
};
constexpr Section kSections[] = {{"library", check_library},      {"preload", check_preload},
                                 {"folders", check_folders},      {"driver", check_driver},
                                 {"slurm", check_slurm},          {"escapes", check_escapes},
                                 {"containers", check_containers}};

void print(const Section& section, const Finding& finding, const Style& style) {
  const std::string word = kLevelNames[static_cast<int>(finding.level)];
  const std::string padded = fmt::format("{:<8}", word);
  const std::string shown = finding.level == Level::kGood  ? style.good(padded)
                            : finding.level == Level::kBad ? style.bad(padded)
                                                           : style.bold(padded);
  fmt::print("{} {:<11} {}\n", shown, section.name, printable(finding.what));
  if (!finding.advice.empty()) fmt::print("{:21}-> {}\n", "", finding.advice);
}

int examine(const Node& node, bool as_json) {
  const Style style(stdout);
  nlohmann::json all = nlohmann::json::array();
  int bad = 0, warnings = 0;
  for (const Section& section : kSections) {
    for (const Finding& finding : section.check(node)) {
      bad += finding.level == Level::kBad;
      warnings += finding.level == Level::kWarning;
      if (!as_json) print(section, finding, style);
      all.push_back({{"section", section.name},
                     {"level", kLevelNames[static_cast<int>(finding.level)]},
                     {"what", printable(finding.what)},
                     {"advice", finding.advice}});
    }
  }
  if (as_json) {
    fmt::print("{}\n", all.dump(2));
  } else {
    fmt::print("{} bad, {} to think about\n", bad, warnings);
  }
  return bad == 0 ? kExitOk : kExitFailure;
}

}  // namespace

void add_doctor(CLI::App& app, int* status) {
  auto node = std::make_shared<Node>();
  auto as_json = std::make_shared<bool>(false);
  const char* named = std::getenv("SLURM_CONF");
  node->slurm_conf = named != nullptr ? named : "/etc/slurm/slurm.conf";
  CLI::App* doctor = app.add_subcommand("doctor", "Look for what is wrong on this node");
  doctor->add_option("--root", node->root, "Look at another root folder, such as a node image")
      ->type_name("DIR");
  doctor->add_option("--slurm-conf", node->slurm_conf, "The slurm.conf of this node")
      ->type_name("FILE");
  doctor->add_flag("--json", *as_json, "For programs");
  doctor->footer("Changes nothing. Exit status: 0 nothing is bad, 1 something is.");
  doctor->callback([node, as_json, status] { *status = examine(*node, *as_json); });
}

}  // namespace softmig::cli
