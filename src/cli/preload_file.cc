#include "cli/preload_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/failure.h"

namespace softmig::cli {
namespace {

constexpr std::string_view kSeparators = " \t:";  // as the loader takes a line apart

bool is_ours(std::string_view entry) {
  return std::filesystem::path(entry).filename() == "libsoftmig.so";
}

// A line without our entry; others keep the separators before them.
std::string without_ours(std::string_view line) {
  const size_t comment = line.find('#');
  std::string_view entries = line.substr(0, comment);
  std::string kept;
  while (!entries.empty()) {
    const size_t begin = entries.find_first_not_of(kSeparators);
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(entries.find_first_of(kSeparators, begin), entries.size());
    if (!is_ours(entries.substr(begin, end - begin))) {
      const size_t from = kept.empty() ? begin : 0;
      kept += entries.substr(from, end - from);
    }
    entries.remove_prefix(end);
  }
  if (comment != std::string_view::npos) kept += line.substr(comment);
  return kept;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno != EINTR) return false;
    if (wrote > 0) bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return true;
}

}  // namespace

std::string with_preload(std::string_view text, const std::string& library) {
  std::string result;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const std::string kept = without_ours(line);
    if (kept.find_first_not_of(kSeparators) != std::string::npos) result += kept + "\n";
  }
  if (!library.empty()) result += library + "\n";
  return result;
}

void replace_file(const std::string& path, std::string_view contents, unsigned mode) {
  struct stat status = {};
  if (lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Failure(path + " is not a regular file: it was left as it is");
  }
  const std::string temporary = fmt::format("{}.new.{}", path, getpid());
  const auto fail = [&](const char* what) {
    const int error = errno;
    unlink(temporary.c_str());
    throw Failure(with_errno(fmt::format("{}: {}", path, what), error));
  };
  unlink(temporary.c_str());
  const Descriptor file(
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file.get() < 0) fail("cannot make its new version");
  if (!write_all(file.get(), contents) || fchmod(file.get(), mode) != 0 || fsync(file.get()) != 0) {
    fail("cannot write its new version");
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) fail("cannot be replaced");
}

std::string read_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    if (std::filesystem::file_size(path, error) == 0) return {};
    throw Failure(with_errno(path, errno));
  }
  return text.str();
}

}  // namespace softmig::cli
