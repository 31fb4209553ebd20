// softmig doctor: is this node fit for slices, and if not, what is to be done? It changes nothing.
#include "cli/doctor.h"

#include <fmt/core.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/output.h"

namespace softmig::cli {
namespace {

constexpr const char* kLevelNames[] = {"ok", "note", "warning", "BAD"};

struct Section {
  const char* name;
  Findings (*check)(const Node&);
};
constexpr Section kSections[] = {{"library", check_library},
                                 {"preload", check_preload},
                                 {"folders", check_folders},
                                 {"driver", check_driver},
                                 {"nvidia-smi", check_nvidia_smi},
                                 {"slurm", check_slurm},
                                 {"shards", check_shards},
                                 {"escapes", check_escapes},
                                 {"containers", check_containers},
                                 {"agent", check_agent},
                                 {"job", check_job}};

// Where slurmd keeps it: its own copy if it asks the controller for it.
std::string usual_slurm_conf() {
  if (const char* named = std::getenv("SLURM_CONF"); named != nullptr) return named;
  for (const char* path : {"/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"}) {
    if (std::filesystem::exists(path)) return path;
  }
  return "/etc/slurm/slurm.conf";
}

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
  node->slurm_conf = usual_slurm_conf();
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
