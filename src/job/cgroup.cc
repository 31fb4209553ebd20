#include "job/cgroup.h"

#include <charconv>

#include "base/text.h"
#include "sys/files.h"

namespace softmig::job {
namespace {

using base::head;
using base::tail;

constexpr std::string_view kJobPrefix = "job_";

// Path of a line "hierarchy:controllers:path"; a colon may stand in the path as well.
std::string_view path_of(std::string_view line) {
  for (int field = 0; field < 2; field++) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return {};
    line = tail(line, colon + 1);
  }
  return line;
}

// Slurm counts jobs in 32 bits.
uint64_t job_number(std::string_view component) {
  if (!component.starts_with(kJobPrefix)) return 0;
  component.remove_prefix(kJobPrefix.size());
  uint32_t number = 0;
  const auto [end, error] =
      std::from_chars(component.data(), component.data() + component.size(), number);
  return error == std::errc() && end == component.data() + component.size() ? number : 0;
}

uint64_t job_in_file(const char* path) {
  const int fd = sys::open_to_read(sys::kCurrentDirectory, path);
  if (fd < 0) return 0;
  sys::LineReader lines(fd);
  std::string_view line;
  uint64_t job = 0;
  while (job == 0 && lines.next(&line)) job = job_in_cgroup_line(line, !lines.cut());
  sys::close_file(fd);
  return job;
}

}  // namespace

uint64_t job_in_cgroup_line(std::string_view line, bool complete) {
  std::string_view path = path_of(line);
  bool below_slurm = false;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const bool last = slash == std::string_view::npos;
    if (last && !complete) return 0;
    const std::string_view component = head(path, slash);
    path = last ? std::string_view{} : tail(path, slash + 1);
    if (component == "user.slice") return 0;
    if (below_slurm) {
      if (const uint64_t job = job_number(component); job != 0) return job;
    } else {
      below_slurm = component.find("slurm") != std::string_view::npos;
    }
  }
  return 0;
}

uint64_t job_of_process(const char* proc, uint32_t pid) {
  const sys::ErrnoGuard keep_errno;
  char path[256];
  base::Text(path).add(proc).add("/").add_number(pid).add("/cgroup");
  return job_in_file(path);
}

uint64_t job_of_self(const char* proc) {
  const sys::ErrnoGuard keep_errno;
  char path[256];
  base::Text(path).add(proc).add("/self/cgroup");
  return job_in_file(path);
}

}  // namespace softmig::job
