// softmig doctor: Slurm's configuration, and what it and softmig.conf say of shards.
#include <fmt/core.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "cli/doctor.h"
#include "cli/preload_file.h"
#include "cli/site_config.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepestInclude = 8;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), ::tolower);
  return text;
}

// The words of one line, KEY=VALUE each, keys in lower case.
using SlurmLine = std::map<std::string, std::string>;

// A file in Slurm's form with those that it includes: comments, lines joined by a backslash.
class SlurmFile {
 public:
  SlurmFile(const Node& node, const std::string& path) : node_(node) { read(path, 0); }

  const std::vector<SlurmLine>& lines() const { return lines_; }
  // Of the line that says it last, those that describe nodes left out.
  std::string value(const std::string& key) const {
    std::string found;
    for (const SlurmLine& line : lines_) {
      if (line.contains("nodename") || !line.contains(key)) continue;
      found = line.at(key);
    }
    return found;
  }

 private:
  void read(const std::string& path, int depth) {
    std::ifstream file(node_.at(path));
    std::string joined;
    for (std::string line; std::getline(file, line);) {
      joined += line.substr(0, line.find('#'));
      if (!joined.empty() && joined.back() == '\\') {
        joined.pop_back();
        continue;
      }
      std::istringstream words(joined);
      joined.clear();
      std::string first;
      words >> first;
      if (lower(first) == "include" && depth < kDeepestInclude) {
        std::string name;
        words >> name;
        read(fs::path(path).parent_path() / name, depth + 1);  // an absolute name stands alone
        continue;
      }
      words.clear();
      words.seekg(0);
      add(words);
    }
  }

  void add(std::istringstream& words) {
    SlurmLine line;
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals != std::string::npos) {
        line[lower(word.substr(0, equals))] = word.substr(equals + 1);
      }
    }
    if (!line.empty()) lines_.push_back(std::move(line));
  }

  const Node& node_;
  std::vector<SlurmLine> lines_;
};

bool has_word(std::string list, const std::string& word) {
  list = lower(list);
  std::replace(list.begin(), list.end(), ',', ' ');
  std::istringstream words(list);
  for (std::string one; words >> one;) {
    if (one == word) return true;
  }
  return false;
}

std::string beside(const Node& node, const std::string& name) {
  return fs::path(node.slurm_conf).parent_path() / name;
}

// The files that Prolog= or Epilog= names, as paths on the node.
std::vector<std::string> scripts_of(const Node& node, const std::string& value) {
  const std::string pattern = node.at(value.starts_with('/') ? value : beside(node, value));
  glob_t found = {};
  std::vector<std::string> scripts;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; i++) scripts.emplace_back(found.gl_pathv[i]);
  }
  globfree(&found);
  return scripts;
}

// Whether the prolog or epilog that slurm.conf names does SoftMig's work, and whether slurmd can
// run it.
Finding check_script(const Node& node, const std::string& kind, const std::string& value) {
  const std::string setting = fmt::format("{}={}", kind, value);
  const std::string word = kind == "Prolog" ? "job-start" : "job-end";
  const std::string name = lower(kind) + "_softmig.sh";
  const std::string advice =
      fmt::format("{0}=/usr/lib/softmig/{1}, or call {1} from your own", kind, name);
  if (value.empty()) return {Level::kBad, setting, advice};
  const std::vector<std::string> scripts = scripts_of(node, value);
  if (scripts.empty()) return {Level::kBad, setting + ": there is no such file", advice};
  for (const std::string& script : scripts) {
    if (!fs::is_regular_file(script)) continue;
    const std::string text = read_file(script);
    if (text.find("softmig " + word) == std::string::npos && text.find(name) == std::string::npos) {
      continue;
    }
    struct stat status = {};
    if (stat(script.c_str(), &status) != 0 || (status.st_mode & S_IXUSR) == 0) {
      return {Level::kBad, fmt::format("{} cannot be run", script), "chmod 755 it"};
    }
    if (status.st_uid != 0 || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
      return {Level::kBad,
              fmt::format("{} has mode {}: others than root can change what root runs", script,
                          mode_text(status)),
              "chown root it; chmod 755 it"};
    }
    return {Level::kGood, setting};
  }
  return {Level::kBad, fmt::format("{}: nothing there calls softmig {}", setting, word), advice};
}

// job_submit.lua or cli_filter.lua beside slurm.conf. Missing is right on machines of another role.
Findings check_lua(const Node& node, const std::string& name, const char* machines) {
  const std::string path = beside(node, name + ".lua");
  const std::string wanted = name + "_softmig.lua";
  if (!fs::exists(node.at(path))) {
    return {{Level::kNote, fmt::format("there is no {}", path),
             fmt::format("{} need one with: return dofile(\".../{}\")", machines, wanted)}};
  }
  const std::string text = read_file(node.at(path));
  if (text.find(wanted) != std::string::npos) return {{Level::kGood, path}};
  return {{Level::kWarning, fmt::format("{} does not call {}", path, wanted),
           fmt::format("end it with: return dofile(\".../{}\")", wanted)}};
}

// How many files "/dev/nvidia[0-3],/dev/nvidia7" are.
uint64_t count_files(const std::string& text) {
  uint64_t total = 0, item = 1;
  for (size_t at = 0; at < text.size(); at++) {
    if (text[at] == ',') {
      total += item;
      item = 1;
    } else if (text[at] == '[') {
      const size_t end = std::min(text.find(']', at), text.size());
      std::istringstream ranges(text.substr(at + 1, end - at - 1));
      uint64_t inside = 0;
      for (std::string range; std::getline(ranges, range, ',');) {
        uint64_t from = 0, to = 0;
        const size_t dash = range.find('-');
        std::from_chars(range.data(), range.data() + std::min(dash, range.size()), from);
        to = from;
        if (dash != std::string::npos) {
          std::from_chars(range.data() + dash + 1, range.data() + range.size(), to);
        }
        inside += to >= from ? to - from + 1 : 1;
      }
      item *= inside;
      at = end;
    }
  }
  return text.empty() ? 0 : total + item;
}

std::optional<uint64_t> number(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "gpu:l40s:4,shard:l40s:16(S:0-1)": counts of one name by type.
std::map<std::string, uint64_t> counts_of(const std::string& gres, const std::string& wanted) {
  std::map<std::string, uint64_t> counts;
  std::istringstream items(gres);
  for (std::string item; std::getline(items, item, ',');) {
    item = item.substr(0, item.find('('));
    std::vector<std::string> words;
    std::istringstream parts(item);
    for (std::string part; std::getline(parts, part, ':');) words.push_back(part);
    if (words.size() < 2 || lower(words[0]) != wanted) continue;
    const auto count = number(words.back());
    const std::string type = words.size() > 2 || !count ? lower(words[1]) : "";
    counts[type] += count.value_or(1);
  }
  return counts;
}

class Shards {
 public:
  explicit Shards(const SiteConfig& site) : site_(site) {}

  // `files` is what File= counts, 0 if it is not there.
  void gres_line(const SlurmLine& line) {
    const auto at = [&line](const char* key) {
      const auto found = line.find(key);
      return found == line.end() ? std::string() : found->second;
    };
    if (lower(at("name")) != "shard") return;
    const auto count = number(at("count"));
    const uint64_t files = count_files(at("file"));
    found_ = true;
    if (count && files != 0) compare("gres.conf", lower(at("type")), *count, files);
  }

  void node_line(const std::string& gres) {
    const auto gpus = counts_of(gres, "gpu");
    for (const auto& [type, shards] : counts_of(gres, "shard")) {
      found_ = true;
      uint64_t of_type = 0;
      for (const auto& [gpu, count] : gpus) of_type += type.empty() || gpu == type ? count : 0;
      if (of_type != 0) compare("slurm.conf", type, shards, of_type);
    }
  }

  Findings result() const {
    if (!found_) {
      return {{Level::kWarning, "no node of slurm.conf or gres.conf has shards",
               "docs/slurm.conf.example has the lines"}};
    }
    if (!findings_.empty()) return findings_;
    return {{Level::kGood, "shards are as softmig.conf says"}};
  }

 private:
  void compare(const char* where, const std::string& type, uint64_t shards, uint64_t gpus) {
    const uint64_t right = site_.shards.get(type);
    if (shards == right * gpus) return;
    findings_.push_back(
        {Level::kBad,
         fmt::format("{} gives {} {} shards, {} says {} for each", where,
                     gpus == 1 ? "one GPU" : fmt::format("{} GPUs", gpus),
                     type.empty() ? fmt::format("{}", shards) : fmt::format("{} {}", shards, type),
                     kSiteConfigFile, right),
         type.empty() ? "make NUM_SHARDS_PER_GPU and gres.conf agree"
                      : fmt::format("make NUM_SHARDS_PER_GPU[{}] and gres.conf agree", type)});
  }

  const SiteConfig& site_;
  bool found_ = false;
  Findings findings_;
};

}  // namespace

Findings check_slurm(const Node& node) {
  if (!fs::exists(node.at(node.slurm_conf))) {
    return {{Level::kNote, fmt::format("no {}: Slurm is not looked at", node.slurm_conf),
             "--slurm-conf FILE names another one"}};
  }
  const SlurmFile conf(node, node.slurm_conf);
  Findings found;
  const auto expect = [&](bool good, Level otherwise, const std::string& key,
                          const std::string& advice) {
    found.push_back({good ? Level::kGood : otherwise,
                     fmt::format("{}={}", key, conf.value(lower(key))), good ? "" : advice});
  };
  const std::string flags = conf.value("prologflags");
  expect(has_word(flags, "alloc") || has_word(flags, "contain"), Level::kBad, "PrologFlags",
         "PrologFlags=Alloc or Contain: else some jobs start without the prolog");
  const std::string types = conf.value("grestypes");
  expect(has_word(types, "gpu") && has_word(types, "shard"), Level::kBad, "GresTypes",
         "GresTypes=gpu,shard");
  for (const char* kind : {"Prolog", "Epilog"}) {
    found.push_back(check_script(node, kind, conf.value(lower(kind))));
  }
  expect(has_word(conf.value("jobsubmitplugins"), "lua"), Level::kWarning, "JobSubmitPlugins",
         "with lua and job_submit_softmig.lua users can ask for gpu:l40s.4:1");
  expect(has_word(conf.value("clifilterplugins"), "lua"), Level::kWarning, "CliFilterPlugins",
         "with lua and cli_filter_softmig.lua srun and steps can ask for gpu:l40s.4:1");
  for (const Finding& finding : check_lua(node, "job_submit", "controllers")) {
    found.push_back(finding);
  }
  for (const Finding& finding : check_lua(node, "cli_filter", "login and compute nodes")) {
    found.push_back(finding);
  }
  expect(conf.value("proctracktype") == "proctrack/cgroup", Level::kWarning, "ProctrackType",
         "with proctrack/cgroup a process cannot deny its job");
  const SlurmFile cgroup(node, beside(node, "cgroup.conf"));
  if (lower(cgroup.value("constraindevices")) != "yes") {
    found.push_back({Level::kWarning, "cgroup.conf does not say ConstrainDevices=yes",
                     "with it, and task/cgroup, a job can open its own GPUs only"});
  }
  if (has_word(conf.value("selecttypeparameters"), "multiple_sharing_gres_pj")) {
    found.push_back({Level::kBad, "SelectTypeParameters has MULTIPLE_SHARING_GRES_PJ",
                     "leave it out: a slice would be spread over several GPUs"});
  }
  return found;
}

Findings check_shards(const Node& node) {
  Findings found;
  std::vector<SiteProblem> problems;
  const SiteConfig site = read_site_config(node.at(kSiteConfigFile), &problems);
  for (const SiteProblem& problem : problems) {
    found.push_back({problem.warning ? Level::kWarning : Level::kBad, problem.text,
                     fmt::format("softmig config check {}", kSiteConfigFile)});
  }
  if (!fs::exists(node.at(node.slurm_conf))) return found;
  Shards shards(site);
  const SlurmFile gres(node, beside(node, "gres.conf"));
  for (const SlurmLine& line : gres.lines()) shards.gres_line(line);
  const SlurmFile conf(node, node.slurm_conf);
  for (const SlurmLine& line : conf.lines()) {
    if (line.contains("nodename") && line.contains("gres")) shards.node_line(line.at("gres"));
  }
  for (const Finding& finding : shards.result()) found.push_back(finding);
  return found;
}

}  // namespace softmig::cli
