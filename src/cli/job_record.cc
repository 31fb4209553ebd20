#include "cli/job_record.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>

#include "cli/failure.h"
#include "cli/output.h"
#include "host/site_config.h"
#include "sys/clock.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;

// "0,2/4": two shards of four.
void take_shards(const std::string& slots, DeviceRecord* device) {
  const size_t slash = slots.find('/');
  if (slash == std::string::npos) return;
  device->shards = static_cast<uint64_t>(std::count(slots.begin(), slots.end(), ',')) + 1;
  device->of = std::strtoull(slots.c_str() + slash + 1, nullptr, 10);
}

Json to_json(const DeviceRecord& device) {
  return {{"name", device.name},
          {"uuid", device.uuid},
          {"memory_limit", device.memory_limit},
          {"sm_limit", device.sm_limit},
          {"shards", device.shards},
          {"of", device.of},
          {"peak", device.peak},
          {"refusals", device.refusals},
          {"gpu_time_ns", device.compute.gpu_ns},
          {"waited_ns", device.compute.waited_ns},
          {"launches", device.compute.launches},
          {"graph_launches", device.compute.graph_launches}};
}

DeviceRecord parse_device(const Json& json) {
  DeviceRecord device;
  device.name = printable(json.at("name").get<std::string>());
  device.uuid = printable(json.at("uuid").get<std::string>());
  json.at("memory_limit").get_to(device.memory_limit);
  json.at("sm_limit").get_to(device.sm_limit);
  json.at("shards").get_to(device.shards);
  json.at("of").get_to(device.of);
  json.at("peak").get_to(device.peak);
  json.at("refusals").get_to(device.refusals);
  json.at("gpu_time_ns").get_to(device.compute.gpu_ns);
  json.at("waited_ns").get_to(device.compute.waited_ns);
  json.at("launches").get_to(device.compute.launches);
  json.at("graph_launches").get_to(device.compute.graph_launches);
  return device;
}

// The record is a file of the job's user: advice counts with these.
bool is_possible(const DeviceRecord& device) {
  return device.of <= host::kMaxShards && device.shards <= device.of && device.sm_limit <= 100;
}

std::string record_path(const std::string& folder, const std::string& job) {
  return fmt::format("{}/{}.json", folder, job);
}

// A folder that only root can put names into.
bool make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  struct stat status = {};
  return lstat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == geteuid() && (status.st_mode & 022) == 0;
}

void prune(const std::string& folder) {
  struct Entry {
    std::string path;
    time_t changed;
  };
  std::vector<Entry> kept;
  std::error_code error;
  const time_t now = std::time(nullptr);
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    struct stat status = {};
    const std::string path = entry.path();
    if (lstat(path.c_str(), &status) != 0) continue;
    const bool large = static_cast<uint64_t>(status.st_size) > kMostRecordBytes;
    if (large || status.st_ctime + kMostRecordSeconds < now) {
      unlink(path.c_str());
    } else {
      kept.push_back({path, status.st_ctime});
    }
  }
  std::sort(kept.begin(), kept.end(),
            [](const Entry& a, const Entry& b) { return a.changed > b.changed; });
  for (size_t i = kMostRecords; i < kept.size(); i++) unlink(kept[i].path.c_str());
}

void write_record(const JobRecord& record, const std::string& folder) {
  if (!make_folder(folder)) throw Failure(folder + ": is not a folder of root's alone");
  const std::string text =
      to_json(record).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  const std::string path = record_path(folder, record.name);
  const int failed = sys::publish_file(path.c_str(), text.data(), text.size(), 0400);
  if (failed != 0) throw Failure(with_errno(path, failed));
  if (record.uid && lchown(path.c_str(), *record.uid, static_cast<gid_t>(-1)) != 0) {
    throw Failure(with_errno(path, errno));
  }
}

}  // namespace

bool DeviceRecord::operator==(const DeviceRecord& other) const {
  return to_json(*this) == to_json(other);
}

JobRecord make_record(const SeenSlice& slice, bool ended) {
  JobRecord record;
  record.name = slice.name;
  record.job_id = slice.job_id;
  record.uid = slice.uid;
  record.node = host_name();
  record.begin_ns = slice.created_ns;
  record.end_ns = sys::realtime_ns();
  record.ended = ended;
  for (const SeenDevice& seen : slice.devices) {
    DeviceRecord device;
    device.uuid = seen.uuid;
    device.name = seen.name;
    device.memory_limit = seen.memory_limit;
    device.sm_limit = seen.sm_limit;
    take_shards(slice.slots, &device);
    device.peak = seen.peak;
    device.refusals = seen.refusals;
    device.compute = seen.compute;
    record.devices.push_back(device);
  }
  return record;
}

Json to_json(const JobRecord& record) {
  Json devices = Json::array();
  for (const DeviceRecord& device : record.devices) devices.push_back(to_json(device));
  return {{"format", kFormat},
          {"name", record.name},
          {"job", record.job_id},
          {"uid", record.uid ? Json(*record.uid) : Json(nullptr)},
          {"node", record.node},
          {"begin_ns", record.begin_ns},
          {"end_ns", record.end_ns},
          {"ended", record.ended},
          {"devices", std::move(devices)}};
}

std::optional<JobRecord> parse_record(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    if (json.at("format").get<int>() != kFormat) return std::nullopt;
    JobRecord record;
    record.name = printable(json.at("name").get<std::string>());
    json.at("job").get_to(record.job_id);
    if (!json.at("uid").is_null()) record.uid = json.at("uid").get<uint32_t>();
    record.node = printable(json.at("node").get<std::string>());
    json.at("begin_ns").get_to(record.begin_ns);
    json.at("end_ns").get_to(record.end_ns);
    json.at("ended").get_to(record.ended);
    for (const Json& device : json.at("devices")) {
      record.devices.push_back(parse_device(device));
      if (!is_possible(record.devices.back())) return std::nullopt;
    }
    return record;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

void keep_record(uint64_t job_id, const std::string& folder, const std::string& run_folder) {
  try {
    const job::Places places{.run_dir = run_folder.c_str(), .trusted_uid = geteuid()};
    policy::Settings settings;
    std::string error;
    if (!read_job_config(places, fmt::format("{}.conf", job_id), &settings, &error)) return;
    SeenSlice slice = make_slice(settings, fmt::format("{}/{}.region", run_folder, job_id), {});
    if (slice.region_status != job::ViewStatus::kOk) return;
    slice.name = std::to_string(job_id);
    slice.job_id = job_id;
    if (settings.uid_set) slice.uid = settings.uid;
    write_record(make_record(slice, true), folder);
    prune(folder);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "softmig: job {}: no record is kept: {}\n", job_id, failure.what());
  }
}

std::optional<JobRecord> read_record(const std::string& job, const std::string& folder) {
  const std::string path = record_path(folder, job);
  const int fd = sys::open_untrusted(path.c_str());
  if (fd < 0) {
    if (errno == EACCES) throw Failure(fmt::format("job {} is not yours", job));
    return std::nullopt;
  }
  sys::FileStatus status;
  std::string text(kMostRecordBytes, '\0');
  const bool sound =
      sys::status_of_fd(fd, &status) && status.is_regular() && status.size <= kMostRecordBytes;
  const long size = sound ? sys::read_some(fd, text.data(), text.size()) : -1;
  sys::close_file(fd);
  text.resize(static_cast<size_t>(std::max(0L, size)));
  auto record = parse_record(text);
  if (!record) throw Failure(path + ": is no record of a job");
  return record;
}

}  // namespace softmig::cli
