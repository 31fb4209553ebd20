// softmig config: what the configs of jobs may hold, and whether a file is one.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/output.h"
#include "cli/site_config.h"
#include "policy/settings.h"
#include "sys/files.h"

namespace softmig::cli {
namespace {

using policy::ParseStatus;

class Check {
 public:
  explicit Check(std::string file) : file_(std::move(file)) {}

  // True if a job with this config has its limits.
  bool operator()() {
    const bool standard_input = file_ == "-";
    const int fd = standard_input
                       ? STDIN_FILENO
                       : sys::open_file(file_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) {
      error(0, with_errno("cannot be opened", errno));
      return false;
    }
    if (!standard_input && !check_file(fd)) {
      sys::close_file(fd);
      return false;
    }
    sys::LineReader lines(fd);
    std::string_view line;
    for (int number = 1; lines.next(&line); number++) check_line(line, lines.cut(), number);
    if (lines.error() != 0) error(0, with_errno("cannot be read", lines.error()));
    if (!standard_input) sys::close_file(fd);
    if (errors_ == 0 && keys_.empty()) error(0, "has no known key");
    if (errors_ == 0) print_result();
    return errors_ == 0;
  }

 private:
  void print(const char* kind, int number, const std::string& what) const {
    const std::string place = number == 0 ? "" : fmt::format("{}:", number);
    fmt::print(stderr, "{}:{} {}{}\n", printable(file_), place, kind, what);
  }
  void error(int number, const std::string& what) {
    errors_++;
    print("", number, what);
  }
  void warn(int number, const std::string& what) const { print("warning: ", number, what); }

  // What the library refuses in /var/run/softmig; elsewhere the file may be a draft.
  // False: it may have no end, or never begin.
  bool check_file(int fd) {
    sys::FileStatus status;
    if (!sys::status_of_fd(fd, &status) || !status.is_regular()) {
      error(0, "is not a regular file");
      return false;
    }
    if (status.uid != 0) warn(0, "is not owned by root: a job would be closed");
    if ((status.permissions() & 022) != 0) warn(0, "others may write it: a job would be closed");
    if (status.links != 1) warn(0, "has more than one name: a job would be closed");
    return true;
  }

  void check_line(std::string_view line, bool cut, int number) {
    std::string_view key, value;
    if (cut) return error(number, "the line is too long");
    if (policy::split_line(line, &key, &value) != ParseStatus::kOk) {
      return error(number, fmt::format("\"{}\" is not KEY=VALUE", printable(line)));
    }
    if (key.empty()) return;
    const policy::ConfigKey* row = policy::find_key(key);
    switch (policy::parse_value(key, value, &settings_)) {
      case ParseStatus::kOk:
        if (!keys_.insert(std::string(key)).second) {
          warn(number, fmt::format("{} is there twice: the last one counts", key));
        }
        return;
      case ParseStatus::kUnknownKey:
        return warn(number, fmt::format("{}: no such key, it is ignored", printable(key)));
      case ParseStatus::kBadDevice:
        return error(number, fmt::format("{}: devices are counted from 0 to {}", key,
                                         policy::kMaxLimitedDevices - 1));
      case ParseStatus::kBadValue:
      case ParseStatus::kBadSyntax:
        return error(number, fmt::format("{}: \"{}\" is not {}", key, printable(value),
                                         row != nullptr ? row->format : "a value"));
    }
  }

  void print_result() const {
    const auto memory = [](uint64_t bytes) { return bytes == 0 ? "no limit" : size_text(bytes); };
    const auto share = [](uint64_t percent) {
      return percent == 0 ? std::string("no limit") : fmt::format("{} %", percent);
    };
    fmt::print("{}: memory {}, GPU time {}", file_, memory(settings_.memory.general),
               share(settings_.sm.general));
    for (int i = 0; i < policy::kMaxLimitedDevices; i++) {
      if (!settings_.memory.set[i] && !settings_.sm.set[i]) continue;
      fmt::print("; device {}: memory {}, GPU time {}", i,
                 memory(policy::memory_limit(settings_, i)), share(policy::sm_limit(settings_, i)));
    }
    fmt::print("{}\n", settings_.limits_anything() ? "" : "; warning: nothing is limited");
  }

  std::string file_;
  policy::Settings settings_;
  std::set<std::string> keys_;
  int errors_ = 0;
};

// True if a prolog can work with this softmig.conf.
bool check_site(const std::string& file) {
  std::vector<SiteProblem> problems;
  const SiteConfig site = read_site_config(file, &problems);
  bool good = sys::exists(file.c_str());
  if (!good) problems.push_back({false, with_errno(printable(file), errno)});
  for (const SiteProblem& problem : problems) {
    good = good && problem.warning;
    fmt::print(stderr, "{}\n", problem.text);
  }
  if (good) {
    fmt::print("{}: {} shards a GPU, {} held back\n", printable(file), site.shards.get(""),
               size_text(site.reserve.get("")));
  }
  return good;
}

// A site's own file, of which there is one on each node, is known by its name.
bool is_site_file(const std::string& file) {
  return file.substr(file.rfind('/') + 1) == "softmig.conf";
}

void print_site_keys() {
  const Style style(stdout);
  for (const SiteKey& key : site_keys()) {
    fmt::print("{}{}\n    {}\n    value: {}; default: {}\n", style.bold(key.name),
               key.by_type ? "[type]" : "", key.help, key.format, key.default_text);
  }
}

void print_keys() {
  const Style style(stdout);
  for (const policy::ConfigKey& key : policy::config_keys()) {
    const bool per_device = key.devices == policy::Devices::kPerDevice;
    const bool file_only = key.places == policy::KeyPlaces::kFileOnly;
    fmt::print("{}{}\n    {}\n    value: {}; default: {}{}\n", style.bold(key.name),
               per_device ? "[_n]" : "", key.help, key.format, key.default_text,
               file_only ? "; in files only" : "");
  }
}

}  // namespace

void add_config(CLI::App& app, int* status) {
  CLI::App* config = app.add_subcommand("config", "Check configs of jobs, or list their keys");
  config->require_subcommand(1);
  auto files = std::make_shared<std::vector<std::string>>();
  CLI::App* check = config->add_subcommand("check", "Read configs as the library would");
  check->add_option("FILE", *files, "Configs; - is standard input, softmig.conf the site's own")
      ->required();
  check->footer(
      "Every error names file, line, key and text. Exit status: 0 all can be used, 1 not.");
  check->callback([files, status] {
    bool good = true;
    for (const std::string& file : *files) {
      good = (is_site_file(file) ? check_site(file) : Check(file)()) && good;
    }
    *status = good ? kExitOk : kExitFailure;
  });
  CLI::App* keys = config->add_subcommand("keys", "List the keys, their values and defaults");
  auto site = std::make_shared<bool>(false);
  keys->add_flag("--site", *site, "Those of /etc/softmig/softmig.conf");
  keys->callback([status, site] {
    if (*site) {
      print_site_keys();
    } else {
      print_keys();
    }
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
