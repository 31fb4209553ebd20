// What a slice used, in short: kept when a job ends, and shown by `softmig report`.
//
// Records lie in /var/lib/softmig/jobs, a folder of root's: {jobid}.json, which belongs to the
// job's user, mode 0400. The figures come from a region that he could write, so they are for him
// and no evidence. Old ones, large ones and those beyond the newest are removed at every end of a
// job.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/node_view.h"

namespace softmig::cli {

inline constexpr const char* kRecordFolder = "/var/lib/softmig/jobs";
inline constexpr size_t kMostRecords = 2000;
inline constexpr uint64_t kMostRecordBytes = uint64_t{64} * 1024;
inline constexpr int64_t kMostRecordSeconds = int64_t{60} * 86400;

struct DeviceRecord {
  // Empty: not known. At a job's end the name is not: NVML may take seconds then, or hang.
  std::string name, uuid;
  uint64_t memory_limit = 0, sm_limit = 0;  // bytes, percent; 0: none
  uint64_t shards = 0, of = 0;              // the slice is so many shards of so many; 0: not known
  uint64_t peak = 0, refusals = 0;
  job::ViewedCompute compute;

  bool operator==(const DeviceRecord&) const;
};

struct JobRecord {
  std::string name;     // as SeenSlice::name
  uint64_t job_id = 0;  // 0: a slice of `softmig run`
  std::optional<uint32_t> uid;
  std::string node;
  uint64_t begin_ns = 0, end_ns = 0;  // CLOCK_REALTIME
  bool ended = false;                 // else end_ns is when this was seen
  std::vector<DeviceRecord> devices;

  bool operator==(const JobRecord&) const = default;
  uint64_t length_ns() const { return end_ns > begin_ns ? end_ns - begin_ns : 0; }
};

JobRecord make_record(const SeenSlice& slice, bool ended);

nlohmann::ordered_json to_json(const JobRecord& record);
// None if it is no record.
std::optional<JobRecord> parse_record(const std::string& text);

// Keeps the record of a job that ends, and removes what is too much. Never fails: a job's end must
// not hang on this.
void keep_record(uint64_t job_id, const std::string& folder = kRecordFolder,
                 const std::string& run_folder = job::Places().run_dir);

// The record of a job that has ended; none if there is none. Throws Failure if it is not for the
// caller to read.
std::optional<JobRecord> read_record(const std::string& job,
                                     const std::string& folder = kRecordFolder);

}  // namespace softmig::cli
