// Which job is this, and what are its limits: identity + config file or environment, as one value.
// Called from inside any process, root's and setuid ones included: opens nothing that a user could
// have planted, never blocks, never allocates, keeps errno.
#pragma once

#include <cstdint>

#include "policy/settings.h"

namespace softmig::job {

enum class Source {
  kNone,         // no config, no variables: passive
  kFile,         // root's config of this job
  kUid,          // job hidden by a foreign cgroup namespace: smallest limits of this uid's jobs
  kEnvironment,  // variables, only where no config exists and not in AT_SECURE processes
  kClosed,       // a config is there and cannot be used: allocations fail
};

struct Identity {
  uint64_t job_id = 0;       // 0: not in a Slurm job
  bool from_cgroup = false;  // else from SLURM_JOB_ID
  bool hidden = false;       // the cgroup namespace is not slurmd's: the path says nothing
  uint64_t array_job = 0, array_task = 0;  // from the environment, for file names only
  bool has_array = false;
};

struct Config {
  Source source = Source::kNone;
  // With Source::kUid job_id is a job of this uid: the one that SLURM_JOB_ID names if it is his,
  // else the first of those that were found.
  Identity identity;
  policy::Settings settings;
  char path[512] = {};   // the file that was read, for messages; empty if none was
  char error[512] = {};  // what is wrong with it: file, line, key, text
  // What changed-or-not is judged by: device, inode, size, mtime and ctime of the file; with kUid
  // and kClosed the directory counts as well. All zero: there is no file.
  uint64_t stamp[6] = {};
};

// Places, so that tests can point them elsewhere. The preload always uses the defaults.
struct Places {
  const char* run_dir = "/var/run/softmig";
  const char* proc = "/proc";
  const char* log_dir = "/var/log/softmig";
  uint32_t trusted_uid = 0;  // owner of run_dir and of what is in it
};

inline constexpr uint64_t kMaxConfigBytes = uint64_t{64} * 1024;

Identity identify(const Places& places);
// Fills *config from scratch. Always succeeds: trouble is Source::kClosed with a text in error.
//
// Files in run_dir, the first that exists: {jobid}.conf; {jobid}_{arrayid}.conf; and where the
// array variables name none, any {jobid}_*.conf, so that a forged variable changes nothing. Where
// SOFTMIG_LOG_LEVEL and SOFTMIG_LOG_FILE are not in the file, the environment's count.
void load_config(const Places& places, Config* config);
// True if the file behind *config is no longer what was read (one stat). The caller then calls
// reload_config, at most once a second.
bool config_changed(const Places& places, const Config& config);
// Reads again. A bad rewrite or a deleted file keeps the last good limits (failure table); returns
// true if the limits in *config are different now. *config->error says what was wrong.
bool reload_config(const Places& places, Config* config);

}  // namespace softmig::job
