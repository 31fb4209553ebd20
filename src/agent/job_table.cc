#include "agent/job_table.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>

#include "host/job_config.h"
#include "job/region.h"
#include "sys/files.h"

namespace softmig::agent {
namespace {

constexpr uint64_t kRememberNs = 600'000'000'000;

uint64_t id_of(const std::string& name) {
  uint64_t id = 0;
  std::from_chars(name.data(), name.data() + name.size(), id);
  return id;
}

}  // namespace

int NodeJob::place_of(uint64_t device_key, bool* named) const {
  *named = false;
  for (int i = 0; i < settings.gpu_count; i++) {
    if (job::device_key(settings.gpu[i]) != device_key) continue;
    *named = true;
    return i;
  }
  return -1;
}

const NodeJob* JobTable::find(uint64_t id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

bool JobTable::is_of(uint64_t id, uint32_t uid) const {
  const NodeJob* job = find(id);
  return job != nullptr && job->usable && job->settings.uid_set && job->settings.uid == uid;
}

std::string JobTable::region_path(uint64_t id) const {
  return fmt::format("{}/{}.region", places_.run_dir, id);
}

void JobTable::take(const std::string& file, std::map<uint64_t, NodeJob>* found) const {
  const std::string name = host::job_of_config_name(file);
  if (name.empty()) return;
  NodeJob job;
  job.id = id_of(name);
  job.file = file;
  // "7.conf" goes before "7_1.conf", as in the library.
  const auto other = found->find(job.id);
  if (job.id == 0 || (other != found->end() && other->second.file < file)) return;
  sys::FileStatus status;
  const std::string path = fmt::format("{}/{}", places_.run_dir, file);
  const NodeJob* known = find(job.id);
  if (!sys::status_at(sys::kCurrentDirectory, path.c_str(), &status)) {
    if (errno != ENOENT && known != nullptr) (*found)[job.id] = *known;
    return;
  }
  const uint64_t stamp[3] = {status.inode, status.size, status.ctime_ns};
  if (known != nullptr && known->file == file &&
      std::equal(std::begin(stamp), std::end(stamp), known->stamp)) {
    (*found)[job.id] = *known;
    return;
  }
  std::copy(std::begin(stamp), std::end(stamp), job.stamp);
  std::string error;
  job.usable = host::read_job_config(places_, file, &job.settings, &error);
  // As in the library: after a bad rewrite the last good limits stay.
  if (!job.usable && known != nullptr && known->usable) {
    job.settings = known->settings;
    job.usable = true;
  }
  (*found)[job.id] = job;
}

void JobTable::refresh(uint64_t now_ns) {
  std::map<uint64_t, NodeJob> found;
  std::error_code trouble;
  std::filesystem::directory_iterator entry(places_.run_dir, trouble);
  for (; !trouble && entry != std::filesystem::directory_iterator(); entry.increment(trouble)) {
    take(entry->path().filename(), &found);
  }
  // What cannot be read is not empty: no job has ended by that.
  trouble_ = trouble ? trouble.message() : "";
  if (trouble) return;
  for (const auto& [id, job] : jobs_) {
    if (!found.contains(id) && job.sliced()) ended_[id] = now_ns;
  }
  jobs_ = std::move(found);
  std::erase_if(ended_, [&](const auto& item) {
    return jobs_.contains(item.first) || now_ns - item.second > kRememberNs;
  });
}

}  // namespace softmig::agent
