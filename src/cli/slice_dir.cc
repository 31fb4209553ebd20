#include "cli/slice_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>

#include "cli/failure.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

constexpr time_t kYoungestLeftover = 1;  // seconds: a run locks its folder right after making it
constexpr int kMomentsToEnd = 10;
constexpr useconds_t kMomentUs = 20'000;

int open_folder(const std::string& path) {
  return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

bool is_usable_place(const char* place) {
  return place != nullptr && place[0] == '/' && access(place, W_OK | X_OK) == 0;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* directory = opendir(folder.c_str());
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory)) names.emplace_back(entry->d_name);
  closedir(directory);
  return names;
}

std::vector<pid_t> processes_with(std::string_view text) {
  std::vector<pid_t> found;
  for (const std::string& name : names_in("/proc")) {
    pid_t pid = 0;
    const auto [end, parse_error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parse_error != std::errc() || end != name.data() + name.size() || pid == getpid()) continue;
    if (environment_holds(pid, text)) found.push_back(pid);
  }
  return found;
}

// The slash keeps softmig-run.1 apart from softmig-run.12.
std::vector<pid_t> users_of(const std::string& folder) { return processes_with(folder + "/"); }

bool is_leftover(const std::string& path, int fd) {
  struct stat status = {};
  if (fstat(fd, &status) != 0 || status.st_uid != geteuid()) return false;
  if (std::time(nullptr) - status.st_ctime < kYoungestLeftover) return false;
  return flock(fd, LOCK_EX | LOCK_NB) == 0 && users_of(path).empty();
}

bool sweep(const std::string& path) {
  const int fd = open_folder(path);
  if (fd < 0) return false;
  const bool removed = is_leftover(path, fd);
  std::error_code error;
  if (removed) fs::remove_all(path, error);
  close(fd);
  return removed && !error;
}

// The folders in which slices are made, best first.
std::vector<std::string> slice_places() {
  std::vector<std::string> places;
  // The last one goes away when its user logs out, under a program that runs on.
  for (const char* place : std::initializer_list<const char*>{std::getenv("SLURM_TMPDIR"), "/tmp",
                                                              std::getenv("XDG_RUNTIME_DIR")}) {
    if (is_usable_place(place)) places.emplace_back(place);
  }
  return places;
}

}  // namespace

bool environment_holds(pid_t pid, std::string_view text) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
  const std::string environment((std::istreambuf_iterator<char>(file)), {});
  return environment.find(text) != std::string::npos;
}

std::string board_folder() {
  for (const char* place :
       std::initializer_list<const char*>{"/tmp", std::getenv("XDG_RUNTIME_DIR")}) {
    if (!is_usable_place(place)) continue;
    const std::string path = fmt::format("{}/softmig-board.{}", place, geteuid());
    mkdir(path.c_str(), 0700);
    struct stat status = {};
    if (lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
        status.st_uid == geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0) {
      return path;
    }
  }
  return "";
}

SliceDir::SliceDir() {
  const std::vector<std::string> places = slice_places();
  int error = ENOENT;
  for (const std::string& place : places) {
    std::string name = place + "/" + std::string(kSliceDirPrefix) + "XXXXXX";
    if (mkdtemp(name.data()) != nullptr) {
      path_ = name;
      break;
    }
    error = errno;
  }
  if (path_.empty()) {
    throw Failure(with_errno("no folder for the slice's files can be made", error),
                  "looked at $SLURM_TMPDIR, /tmp and $XDG_RUNTIME_DIR");
  }
  lock_ = open_folder(path_);
  if (lock_ >= 0) flock(lock_, LOCK_EX);
}

SliceDir::~SliceDir() {
  // What was told to end together with the program may need a moment.
  for (int i = 0; i < kMomentsToEnd && !users().empty(); i++) usleep(kMomentUs);
  std::error_code error;
  if (users().empty()) fs::remove_all(path_, error);
  if (lock_ >= 0) close(lock_);
}

std::vector<pid_t> SliceDir::users() const { return users_of(path_); }

int sweep_dead_slices() {
  int removed = 0;
  for (const std::string& place : slice_places()) {
    for (const std::string& name : names_in(place)) {
      if (!name.starts_with(kSliceDirPrefix)) continue;
      removed += sweep(fmt::format("{}/{}", place, name)) ? 1 : 0;
    }
  }
  return removed;
}

}  // namespace softmig::cli
