// softmig doctor: the node itself, and the job that it runs in.
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "cli/doctor.h"
#include "cli/install.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "cli/preload_file.h"
#include "cli/smi_hook.h"
#include "cli/trial.h"
#include "job/calibration.h"
#include "job/config.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

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

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Programs that have mapped a library that an update has replaced.
int count_old_programs(const Node& node) {
  int count = 0;
  std::error_code ended;
  fs::directory_iterator entry(node.at("/proc"), ended);
  for (; !ended && entry != fs::directory_iterator(); entry.increment(ended)) {
    std::ifstream maps(entry->path() / "maps");
    for (std::string line; std::getline(maps, line);) {
      if (!line.ends_with("libsoftmig.so (deleted)")) continue;
      count++;
      break;
    }
  }
  return count;
}

// SELinux keeps confined services from mapping what is labelled as data.
void check_label(const Node& node, Findings* found) {
  if (first_line(node.at("/sys/fs/selinux/enforce")) != "1") return;
  char label[256] = {};
  const std::string path = node.at(kSharedLibrary);
  if (getxattr(path.c_str(), "security.selinux", label, sizeof label - 1) > 0 &&
      std::string(label).find(":lib_t") != std::string::npos) {
    return;
  }
  found->push_back(
      {Level::kWarning,
       fmt::format("{} has no label of a library: services of SELinux cannot load it",
                   kSharedLibrary),
       fmt::format("semanage fcontext -a -t lib_t {0}; restorecon {0}", kSharedLibrary)});
}

// One version of everything: the library that is loaded, the one that came with this command, and
// the commands that Slurm's scripts may find.
void check_version(const Node& node, Findings* found) {
  if (node.root.empty()) {
    const std::string own = find_library("");
    if (own != kSharedLibrary && read_file(own) != read_file(kSharedLibrary)) {
      found->push_back(
          {Level::kWarning,
           fmt::format("{} is not that of softmig {}, {}", kSharedLibrary, SOFTMIG_VERSION, own),
           "softmig update, if this is the newer one"});
    }
  }
  const std::string packaged = node.at("/usr/bin/softmig"),
                    local = node.at("/usr/local/bin/softmig");
  if (fs::exists(packaged) && fs::exists(local) && read_file(packaged) != read_file(local)) {
    found->push_back({Level::kWarning,
                      "/usr/bin/softmig and /usr/local/bin/softmig are two versions",
                      "remove the one in /usr/local/bin: the other is the package's"});
  }
  if (const int old = count_old_programs(node); old != 0) {
    found->push_back({Level::kNote, fmt::format("{} programs run with an earlier library", old),
                      "what starts from now on has the new one; restart services when it suits"});
  }
}

// Places of a container runtime's configuration that can bind the list and the library into every
// container.
struct Runtime {
  const char* name;
  const char* program;
  std::vector<const char*> configs;  // files, or folders with them
  const char* advice;
};

const std::vector<Runtime>& runtimes() {
  static const std::vector<Runtime> all = {
      {"Apptainer",
       "apptainer",
       {"/etc/apptainer/apptainer.conf", "/usr/local/etc/apptainer/apptainer.conf"},
       "bind path = lines in apptainer.conf"},
      {"Singularity",
       "singularity",
       {"/etc/singularity/singularity.conf", "/usr/local/etc/singularity/singularity.conf"},
       "bind path = lines in singularity.conf"},
      {"enroot", "enroot", {"/etc/enroot/mounts.d"}, "lines in /etc/enroot/mounts.d"},
      {"Podman",
       "podman",
       {"/etc/containers/mounts.conf", "/etc/containers/containers.conf"},
       "volumes in /etc/containers/containers.conf"},
      {"Docker", "docker", {}, "it is for no cluster whose users are not trusted"},
  };
  return all;
}

// Lines that say something, of a file or of the files in a folder.
std::string settings_in(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    std::string all;
    for (const auto& entry : fs::directory_iterator(path, error)) {
      if (entry.is_regular_file()) all += settings_in(entry.path());
    }
    return all;
  }
  std::ifstream file(path);
  std::string all;
  for (std::string line; std::getline(file, line);) {
    all += line.substr(0, line.find('#')) + "\n";
  }
  return all;
}

bool is_installed(const Node& node, const char* program) {
  for (const char* folder : {"/usr/bin/", "/usr/local/bin/"}) {
    if (fs::exists(node.at(folder + std::string(program)))) return true;
  }
  return false;
}

}  // namespace

std::string mode_text(const struct stat& status) {
  return fmt::format("{:o}, owner {}", status.st_mode & 07777, status.st_uid);
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
  check_label(node, &found);
  check_version(node, &found);
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
  struct stat status = {};
  if (stat(node.at("/var/log/softmig").c_str(), &status) == 0 && (status.st_mode & 07777) == 0775 &&
      status.st_gid == 0) {
    found.push_back({Level::kBad, "/var/log/softmig has mode 775 and root's group: no user can log",
                     "softmig install --log-group GROUP, or mode 1777"});
  }
  const auto is_somewhere = [&node](std::initializer_list<const char*> paths) {
    return std::any_of(paths.begin(), paths.end(),
                       [&node](const char* path) { return fs::exists(node.at(path)); });
  };
  if (!is_somewhere({"/etc/tmpfiles.d/softmig.conf", "/usr/lib/tmpfiles.d/softmig.conf"})) {
    found.push_back({Level::kWarning, "/run/softmig will not be there after a boot",
                     "softmig install writes /etc/tmpfiles.d/softmig.conf"});
  }
  if (!is_somewhere({"/etc/logrotate.d/softmig"})) {
    found.push_back({Level::kWarning, "logs of jobs stay for ever",
                     "softmig install writes /etc/logrotate.d/softmig"});
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

Findings check_nvidia_smi(const Node& node) {
  const SmiHook hook(node.root);
  if (hook.in_front()) return {{Level::kGood, "nvidia-smi shows the processes of one's own job"}};
  if (hook.was_replaced()) {
    return {{Level::kWarning, "a new nvidia-smi has taken the place of the hook",
             "softmig install --nvidia-smi-hook puts the hook before it"}};
  }
  if (!fs::exists(node.at(SmiHook::kProgram))) return {};
  return {{Level::kNote, "nvidia-smi lists the processes of all jobs",
           "softmig install --nvidia-smi-hook changes that"}};
}

// What an ordinary user could do to get past the library.
Findings check_escapes(const Node& node) {
  Findings found;
  const std::string allowed = first_line(node.at("/proc/sys/kernel/unprivileged_userns_clone"));
  const std::string most = first_line(node.at("/proc/sys/user/max_user_namespaces"));
  // Ubuntu's AppArmor lets users have only namespaces that can do nothing.
  const std::string restricted =
      first_line(node.at("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"));
  if (allowed != "0" && most != "0" && !most.empty() && restricted != "1") {
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
  for (const Runtime& runtime : runtimes()) {
    if (!is_installed(node, runtime.program)) continue;
    std::string settings;
    for (const char* config : runtime.configs) settings += settings_in(node.at(config));
    std::string missing;
    for (const char* path : {kPreloadFile, "/var/lib/shared", "/run/softmig"}) {
      if (settings.find(path) != std::string::npos) continue;
      missing += missing.empty() ? path : fmt::format(", {}", path);
    }
    found.push_back(
        missing.empty()
            ? Finding{Level::kGood,
                      fmt::format("{} binds the library into containers", runtime.name)}
            : Finding{Level::kWarning,
                      fmt::format("containers of {} do not see {}: no limit holds there",
                                  runtime.name, missing),
                      fmt::format("{}, as docs/containers.md has them", runtime.advice)});
  }
  return found;
}

// Where doctor is run in a job: whether the limits reach it.
Findings check_job(const Node& node) {
  if (!node.root.empty()) return {};
  job::Config config;
  job::load_config({}, &config);
  const job::Identity& who = config.identity;
  if (who.job_id == 0 && config.source == job::Source::kNone) return {};
  const std::string job = who.job_id == 0 ? "this process" : fmt::format("job {}", who.job_id);
  Findings found;
  if (config.source == job::Source::kClosed) {
    found.push_back({Level::kBad, fmt::format("{} can allocate nothing: {}", job, config.error),
                     "the prolog, or root, writes a config that can be read"});
  } else if (config.source == job::Source::kNone) {
    found.push_back({Level::kNote, fmt::format("{} has no slice", job),
                     "right for a job with whole GPUs, or none; else: did the prolog run?"});
  } else {
    const std::string from = config.path[0] != 0 ? config.path : "the environment";
    found.push_back({Level::kGood, fmt::format("{} has limits from {}", job, from)});
  }
  if (who.job_id != 0 && !who.from_cgroup) {
    found.push_back(
        {Level::kWarning, "the job is known from SLURM_JOB_ID alone",
         "ProctrackType=proctrack/cgroup; in a container: the host's cgroup namespace"});
  }
  const bool is_listed = !system_preload().empty();
  std::ifstream maps("/proc/self/maps");
  const std::string mapped{std::istreambuf_iterator<char>(maps), {}};
  if (is_listed && mapped.find("libsoftmig.so") == std::string::npos) {
    found.push_back({Level::kBad, "this very program runs without the library",
                     "its file cannot be read here: 644, every folder above it 755"});
  }
  return found;
}

}  // namespace softmig::cli
