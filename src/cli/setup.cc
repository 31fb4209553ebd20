// softmig install and uninstall: the library on a node, in the one order that cannot harm it.
//
// A preloaded library that cannot be loaded fully stops every exec of the node. So the new library
// is tried under another name first, by programs that load nothing else, then as /etc/ld.so.preload
// would load it, where only the trial sees that; the line is written last, and taken back if the
// next exec fails. Uninstalling takes the line out first.
#include <fmt/core.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/install.h"
#include "cli/node_files.h"
#include "cli/output.h"
#include "cli/preload_file.h"
#include "cli/smi_hook.h"
#include "cli/trial.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kNobody = 65534;
constexpr const char* kCommand = "/usr/local/bin/softmig";
constexpr const char* kPackagedCommand = "/usr/bin/softmig";
constexpr const char* kConfigs = "/run/softmig";

struct Folder {
  const char* path;
  unsigned mode;
};
constexpr Folder kFolders[] = {
    {"/var/lib/shared", 0755}, {"/run/softmig", 0755}, {"/var/lib/softmig", 0755}};
constexpr Folder kLogFolder = {"/var/log/softmig", 01777};
constexpr unsigned kGroupLogMode = 0775;

constexpr const char* kOwnFolder = "/usr/local/lib/softmig";

struct SystemFile {
  const char* path;
  const char* contents;
  unsigned mode;
};
// A package brings its own.
constexpr SystemFile kFiles[] = {
    {"/etc/tmpfiles.d/softmig.conf", kTmpfilesText, 0644},
    {"/etc/logrotate.d/softmig", kLogrotateText, 0644},
    {"/usr/local/lib/softmig/nvidia-smi-hook.sh", kSmiHookText, 0755},
};

// Made beside the command by a build; a package brings its own.
constexpr const char* kManualFolder = "/usr/local/share/man";
constexpr const char* kManuals[] = {"man1/softmig.1", "man5/softmig.conf.5", "man7/libsoftmig.7",
                                    "man8/softmigd.8"};

struct Options {
  std::string library, log_group, root;
  bool preload = true, smi_hook = false;
};

void need_root(const char* command) {
  if (geteuid() != 0) {
    throw Failure(fmt::format("{} changes the system: it needs root", command),
                  fmt::format("sudo softmig {}", command));
  }
}

void say(const std::string& path, const std::string& what) {
  fmt::print("{:<32} {}\n", path, what);
}

class Setup {
 public:
  explicit Setup(Options options) : options_(std::move(options)) {}

  void install() {
    need_root("install");
    if (options_.smi_hook) smi_hook_.check();
    const std::string source = find_library(options_.library);
    for (const Folder& folder : kFolders) make_folder(folder, 0);
    make_log_folder();
    put_library(source);
    if (!is_packaged()) {
      for (const SystemFile& file : kFiles) put(file.path, file.contents, file.mode);
      put_command();
      put_manuals();
    }
    if (options_.smi_hook || smi_hook_.in_front()) say(SmiHook::kProgram, smi_hook_.put());
    if (options_.preload) put_line();
    const std::string list = read_file(at(kPreloadFile));
    fmt::print("{}\n", with_preload(list, "") != list
                           ? "Installed. Programs that start from now on load the library."
                           : "Installed. Nothing loads the library yet: softmig install does it.");
  }

  void uninstall() {
    need_root("uninstall");
    const std::string text = read_file(at(kPreloadFile));
    const std::string rest = with_preload(text, "");
    if (rest != text) {
      rest.empty() ? remove(kPreloadFile) : replace(kPreloadFile, rest, 0644);
      say(kPreloadFile, "the line was taken out");
    }
    warn_of_jobs();
    if (smi_hook_.take_back()) say(SmiHook::kProgram, "the program is back in its place");
    remove(kSharedLibrary);
    if (!is_packaged()) {
      for (const SystemFile& file : kFiles) remove(file.path);
      remove(kCommand);
      for (const char* manual : kManuals) remove(fmt::format("{}/{}", kManualFolder, manual));
      rmdir(at(kOwnFolder).c_str());
    }
    fmt::print(
        "Uninstalled. Running programs keep what they have loaded; configs and logs stay.\n");
  }

 private:
  bool is_this_system() const { return options_.root.empty(); }
  bool is_packaged() const { return is_this_system() && own_path() == kPackagedCommand; }
  std::string at(const std::string& path) const { return options_.root + path; }

  void make_folder(const Folder& folder, gid_t group) {
    const std::string path = at(folder.path);
    std::error_code error;
    fs::create_directories(path, error);
    if (error) throw Failure(path + ": " + error.message());
    if (chown(path.c_str(), 0, group) != 0 || chmod(path.c_str(), folder.mode) != 0) {
      throw Failure(with_errno(path, errno));
    }
    say(folder.path, fmt::format("folder, mode {:o}", folder.mode));
  }

  void make_log_folder() {
    if (options_.log_group.empty()) {
      if (!log_folder_is_right()) make_folder(kLogFolder, 0);
      return;
    }
    const group* found = getgrnam(options_.log_group.c_str());
    if (found == nullptr) {
      throw Failure(fmt::format("--log-group {}: there is no such group", options_.log_group));
    }
    make_folder({kLogFolder.path, kGroupLogMode}, found->gr_gid);
  }

  // An update keeps the group that an installation was given.
  bool log_folder_is_right() const {
    struct stat status = {};
    return lstat(at(kLogFolder.path).c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
           status.st_uid == 0 && (status.st_mode & 07777) == kGroupLogMode && status.st_gid != 0;
  }

  void warn_of_jobs() const {
    std::error_code error;
    int jobs = 0;
    for (const auto& entry : fs::directory_iterator(at(kConfigs), error)) {
      jobs += entry.path().extension() == ".conf";
    }
    if (jobs != 0) say(kConfigs, fmt::format("{} jobs: what they start now is not limited", jobs));
  }

  void replace(const std::string& path, const std::string& contents, unsigned mode) const {
    std::error_code error;
    fs::create_directories(fs::path(at(path)).parent_path(), error);
    replace_file(at(path), contents, mode);
  }

  void put(const std::string& path, const std::string& contents, unsigned mode) const {
    const bool same = fs::exists(at(path)) && read_file(at(path)) == contents;
    if (!same) replace(path, contents, mode);
    say(path, same ? "unchanged" : "written");
  }

  void remove(const std::string& path) const {
    if (unlink(at(path).c_str()) == 0) {
      say(path, "removed");
    } else if (errno != ENOENT) {
      throw Failure(with_errno(at(path), errno));
    }
  }

  // Never written over: every process of the node has the old file mapped.
  void put_library(const std::string& source) {
    const std::string contents = read_file(source);
    const std::string trial = std::string(kSharedLibrary) + ".trial";
    replace(trial, contents, 0644);
    const auto discard = [this, &trial] { unlink(at(trial).c_str()); };
    try {
      // A folder with an image may be closed to everybody else.
      for (const unsigned uid : is_this_system() ? std::vector{0U, kNobody} : std::vector{0U}) {
        must_work({.command = {"/bin/true"}, .uid = uid, .preload = at(trial)});
        must_work({.command = {"/bin/sh", "-c", "exit 7"},
                   .uid = uid,
                   .preload = at(trial),
                   .status = 7});
      }
      if (is_this_system()) rehearse(trial);
    } catch (const Failure&) {
      discard();
      throw;
    }
    const bool same = fs::exists(at(kSharedLibrary)) && read_file(at(kSharedLibrary)) == contents;
    if (same) {
      discard();
    } else if (rename(at(trial).c_str(), at(kSharedLibrary).c_str()) != 0) {
      throw Failure(with_errno(at(kSharedLibrary), errno));
    }
    say(kSharedLibrary, same ? "unchanged, tried" : "tried, put in place");
  }

  static void must_work(const Trial& trial) {
    const std::string trouble = try_out(trial);
    if (trouble.empty()) return;
    throw Failure(
        fmt::format("{} with the library, as uid {}: {}", trial.command[0], trial.uid, trouble),
        "nothing was changed in what programs load");
  }

  // As /etc/ld.so.preload would load it, setuid programs included.
  static void rehearse(const std::string& library) {
    const std::string list = "/run/softmig/trial";
    replace_file(list, library + "\n", 0644);
    const bool made = !fs::exists(kPreloadFile);
    if (made) replace_file(kPreloadFile, "", 0644);  // a mount needs something to lie on
    std::string trouble;
    for (const Trial& trial :
         {Trial{.command = {"/bin/true"}, .preload_file = list},
          Trial{.command = {"/bin/true"}, .uid = kNobody, .preload_file = list},
          Trial{.command = {"/bin/mount", "--version"},
          .uid = kNobody,
          .preload_file = list,
          .prints = true}}) {
      if (!trouble.empty() || !fs::exists(trial.command[0])) continue;
      trouble = try_out(trial);
      if (!trouble.empty()) trouble = fmt::format("{}: {}", trial.command[0], trouble);
    }
    unlink(list.c_str());
    if (made) unlink(kPreloadFile);
    const bool skipped = trouble.find("skipped") != std::string::npos;
    if (skipped) say(kPreloadFile, "not rehearsed: private mounts are not allowed here");
    if (!trouble.empty() && !skipped) {
      throw Failure("as /etc/ld.so.preload would load it: " + trouble,
                    "nothing was changed in what programs load");
    }
  }

  void put_command() {
    if (own_path() == kCommand && is_this_system()) return;
    put(kCommand, read_file(own_path()), 0755);
  }

  void put_manuals() {
    const fs::path made = fs::path(own_path()).parent_path() / "man";
    for (const char* manual : kManuals) {
      const fs::path source = made / fs::path(manual).filename();
      if (!fs::exists(source)) continue;  // installed already, or a build without them
      put(fmt::format("{}/{}", kManualFolder, manual), read_file(source), 0644);
    }
  }

  void put_line() {
    const std::string before = read_file(at(kPreloadFile));
    const std::string after = with_preload(before, kSharedLibrary);
    if (after != before) replace(kPreloadFile, after, 0644);
    say(kPreloadFile, after != before ? "the line was written, last" : "unchanged");
    if (!is_this_system()) return;
    const std::string trouble = try_out({.command = {"/bin/true"}});
    if (trouble.empty()) return;
    before.empty() ? static_cast<void>(unlink(kPreloadFile)) : replace(kPreloadFile, before, 0644);
    throw Failure("/bin/true after the line was written: " + trouble, "the line was taken back");
  }

  Options options_;
  SmiHook smi_hook_{options_.root};
};

CLI::App* add(CLI::App& app, const char* name, const char* about,
              const std::shared_ptr<Options>& options) {
  CLI::App* command = app.add_subcommand(name, about);
  command->add_option("--root", options->root, "Another root folder, such as that of a node image")
      ->type_name("DIR");
  return command;
}

}  // namespace

void add_setup(CLI::App& app, int* status) {
  auto options = std::make_shared<Options>();
  CLI::App* install = add(app, "install", "Put the library on this node, or a newer one", options);
  install->alias("update");
  install->add_option("--library", options->library, "The libsoftmig.so to install")
      ->type_name("PATH");
  install
      ->add_option("--log-group", options->log_group,
                   "Members of this group alone may make logs (775); else everybody (1777)")
      ->type_name("GROUP");
  install->add_flag("!--no-preload", options->preload, "Leave /etc/ld.so.preload as it is");
  install->add_flag("--nvidia-smi-hook", options->smi_hook,
                    "Put nvidia-smi-hook.sh in the place of /usr/bin/nvidia-smi");
  install->footer(
      "The new library is tried before anything loads it; the line in /etc/ld.so.preload is\n"
      "written last. Again with a newer library it is an update: running programs keep the old "
      "one.");
  install->callback([options, status] {
    Setup(*options).install();
    *status = kExitOk;
  });
  CLI::App* uninstall = add(app, "uninstall", "Take the library off this node", options);
  uninstall->callback([options, status] {
    Setup(*options).uninstall();
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
