#include "job/config.h"

#include <string.h>

#include <charconv>

#include "base/bytes.h"
#include "base/format.h"
#include "job/cgroup.h"
#include "job/components.h"
#include "job/log.h"
#include "job/trusted_file.h"
#include "policy/failure.h"
#include "sys/env.h"
#include "sys/files.h"

namespace softmig::job {
namespace {

using base::Text;
using policy::Effect;
using policy::ParseStatus;
using policy::Settings;
using policy::Situation;

constexpr int kUnknownKeysNamed = 8;  // further ones in the same file are only counted
constexpr int kReadAttempts = 3;
constexpr uint64_t kInitialCgroupNamespace = 0xeffffffb;  // PROC_CGROUP_INIT_INO of the kernel

enum class Found { kNothing, kGood, kBad };

using Name = char[64];

// What one look at the run directory gave. `status` is of the file that was read, `directory` of
// the directory before anything in it was; `unknown` names keys for the log.
struct Look {
  Found found = Found::kNothing;
  Settings settings;
  sys::FileStatus status, directory;
  char path[sizeof Config::path] = {};
  char error[sizeof Config::error] = {};
  char unknown[sizeof Config::error] = {};
  int unknown_count = 0;
};

bool to_number(std::string_view text, uint64_t* number) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  *number = value;
  return true;
}

bool number_variable(const char* name, uint64_t* number) {
  const char* text = sys::variable(name);
  return text != nullptr && to_number(text, number);
}

void set_path(const Places& places, const char* name, Look* look) {
  Text(look->path).add(places.run_dir).add('/').add(name);
}

void note_unknown(int line_number, std::string_view key, Look* look) {
  if (look->unknown_count++ >= kUnknownKeysNamed) return;
  const bool first = look->unknown_count == 1;
  const size_t length = strlen(look->unknown);
  Text text(look->unknown + length, sizeof look->unknown - length);
  base::format(text, "%s%d: %.*s", first ? "" : ", ", line_number,
               static_cast<int>(key.size() < 64 ? key.size() : 64), key.data());
}

// "CUDA_DEVICE_SM_LIMIT: "120" is not a whole number from 0 to 100" and so on.
void describe(ParseStatus status, std::string_view key, std::string_view value, Text& error) {
  const int key_size = static_cast<int>(key.size()), value_size = static_cast<int>(value.size());
  if (status == ParseStatus::kBadSyntax) {
    base::format(error, "\"%.*s\" is not KEY=VALUE", value_size, value.data());
    return;
  }
  base::format(error, "%.*s: ", key_size, key.data());
  if (status == ParseStatus::kBadDevice) {
    base::format(error, "devices are counted from 0 to %d", policy::kMaxLimitedDevices - 1);
    return;
  }
  const policy::ConfigKey* row = policy::find_key(key);
  base::format(error, "\"%.*s\" is not %s", value_size, value.data(), row ? row->format : "known");
}

// One line into look->settings; counts known keys. False: look->error says why.
bool parse_config_line(std::string_view line, int number, int* known, Look* look) {
  std::string_view key, value;
  ParseStatus status = policy::split_line(line, &key, &value);
  if (status == ParseStatus::kBadSyntax) value = line;
  if (status == ParseStatus::kOk && key.empty()) return true;
  if (status == ParseStatus::kOk) status = policy::parse_value(key, value, &look->settings);
  if (status == ParseStatus::kOk) (*known)++;
  if (status == ParseStatus::kUnknownKey) note_unknown(number, key, look);
  if (status == ParseStatus::kOk || status == ParseStatus::kUnknownKey) return true;
  Text error(look->error);
  base::format(error, "%s:%d: ", look->path, number);
  describe(status, key, value, error);
  return false;
}

// All lines of an open config. False: unusable, look->error says why.
bool parse_file(int fd, Look* look) {
  sys::LineReader lines(fd);
  std::string_view line;
  uint64_t bytes = 0;
  int known = 0;
  for (int number = 1; lines.next(&line); number++) {
    bytes += line.size() + 1;
    if (lines.cut() || bytes > kMaxConfigBytes + 1) {
      Text error(look->error);
      base::format(error, "%s:%d: the line or the file is too long", look->path, number);
      return false;
    }
    if (!parse_config_line(line, number, &known, look)) return false;
  }
  Text error(look->error);
  if (lines.error() != 0) base::format(error, "%s: errno %d", look->path, lines.error());
  // A file that is being written is empty at first: it must not mean "no limits".
  if (lines.error() == 0 && known == 0) base::format(error, "%s: has no known key", look->path);
  return error.size() == 0;
}

// Nobody wrote in between. A rename over it changes ctime alone, and what was read is whole.
bool is_same_version(const sys::FileStatus& a, const sys::FileStatus& b) {
  return a.size == b.size && a.mtime_ns == b.mtime_ns;
}

// Reads one file of the run directory into *look, which is made anew.
void read_file(const RunDirectory& directory, const Places& places, const char* name, Look* look) {
  for (int attempt = 0; attempt < kReadAttempts; attempt++) {
    *look = Look{};
    set_path(places, name, look);
    sys::status_at(sys::kCurrentDirectory, places.run_dir, &look->directory);
    sys::status_at(sys::kCurrentDirectory, look->path, &look->status);
    Text error(look->error);
    bool absent = false;
    const int fd = directory.open(name, &look->status, &absent, error);
    look->found = absent ? Found::kNothing : Found::kBad;
    if (fd < 0) return;
    if (parse_file(fd, look)) look->found = Found::kGood;
    sys::FileStatus after;
    const bool same = sys::status_of_fd(fd, &after) && is_same_version(look->status, after);
    sys::close_file(fd);
    if (same) return;
  }
  if (look->found != Found::kGood) return;
  look->found = Found::kBad;
  Text error(look->error);
  base::format(error, "%s: is being written all the time", look->path);
}

// Parts of "{jobid}.conf" or "{jobid}_{arrayid}.conf". False for any other name.
bool parse_name(std::string_view name, uint64_t* job_id, bool* has_array) {
  constexpr std::string_view kEnding = ".conf";
  if (!name.ends_with(kEnding)) return false;
  name.remove_suffix(kEnding.size());
  const size_t mark = name.find('_');
  *has_array = mark != std::string_view::npos;
  uint64_t array = 0;
  return to_number(base::head(name, mark), job_id) &&
         (!*has_array || to_number(base::tail(name, mark + 1), &array));
}

// The first "{jobid}_*.conf" in the order of the directory; one job has one.
bool find_array_file(const RunDirectory& directory, uint64_t job_id, Name& name) {
  sys::DirectoryReader names(directory.fd());
  while (const char* entry = names.next()) {
    uint64_t job = 0;
    bool has_array = false;
    if (!parse_name(entry, &job, &has_array) || job != job_id || !has_array) continue;
    Text(name).add(entry);
    return true;
  }
  return false;
}

void look_for_job(const Places& places, const Identity& who, Look* look) {
  const RunDirectory directory(places);
  Name name;
  Text(name).add_number(who.job_id).add(".conf");
  read_file(directory, places, name, look);
  if (look->found != Found::kNothing || !directory.is_there()) return;
  if (who.has_array) {
    Text(name).add_number(who.job_id).add('_').add_number(who.array_task).add(".conf");
    read_file(directory, places, name, look);
    if (look->found != Found::kNothing) return;
  }
  if (find_array_file(directory, who.job_id, name)) read_file(directory, places, name, look);
}

// The component of a heterogeneous job that has a config on this node is the one that is meant.
void look_for_component(const Places& places, Identity* who, Look* look) {
  const auto number = [](const char* name) {
    uint64_t value = 0;
    return number_variable(name, &value) ? value : 0;
  };
  find_component(number, [&](uint64_t id) {
    Identity component = *who;
    component.job_id = id;
    look_for_job(places, component, look);
    if (look->found == Found::kNothing) return false;
    who->job_id = id;
    return true;
  });
}

// The strictest of several jobs' configs.
struct Merge {
  Look look;            // found stays kNothing while there is none
  uint64_t job_id = 0;  // whose path it has
};

void merge(const Look& look, uint64_t job_id, uint64_t preferred_job, Merge* all) {
  const bool first = all->look.found == Found::kNothing;
  const Settings so_far = first ? look.settings : all->look.settings;
  if (first || job_id == preferred_job) {
    all->look = look;
    all->job_id = job_id;
  }
  if (!first) {
    policy::merge_strictest(so_far, &all->look.settings);
    policy::merge_strictest(look.settings, &all->look.settings);
  }
}

// Configs that cannot be read may be anybody's, so they count only where no other answers. In a
// user namespace the uid may be one of a namespace in between, which anybody can choose: where it
// has no job, all jobs of the node count.
void look_for_uid(const Places& places, Identity* who, Look* look) {
  const uint32_t uid = outer_uid(places);
  const bool certain = !in_user_namespace(places);
  const RunDirectory directory(places);
  uint64_t preferred_job = 0;
  number_variable("SLURM_JOB_ID", &preferred_job);
  Merge mine, everybody;
  *look = Look{};
  sys::FileStatus before;
  sys::status_at(sys::kCurrentDirectory, places.run_dir, &before);
  sys::DirectoryReader names(directory.fd());
  while (const char* entry = names.next()) {
    uint64_t job_id = 0;
    bool has_array = false;
    if (!parse_name(entry, &job_id, &has_array)) continue;
    Look one;
    read_file(directory, places, entry, &one);
    if (one.found == Found::kBad && look->found == Found::kNothing) *look = one;
    if (one.found != Found::kGood || !one.settings.uid_set) continue;
    if (one.settings.uid == uid) merge(one, job_id, preferred_job, &mine);
    if (!certain) merge(one, job_id, preferred_job, &everybody);
  }
  if (names.failed() && !directory.is_absent()) {
    look->found = Found::kBad;
    Text(look->path).add(places.run_dir);
    Text(look->error).add(places.run_dir).add(": cannot be listed");
  }
  const Merge& chosen = mine.look.found == Found::kGood ? mine : everybody;
  if (chosen.look.found == Found::kGood) {
    *look = chosen.look;
    who->job_id = chosen.job_id;
  }
  look->directory = before;
}

// A job id from the environment may be another user's, or that of root's prolog.
bool is_foreign(const Places& places, const Identity& who, const Look& look) {
  return !who.from_cgroup && look.found == Found::kGood && look.settings.uid_set &&
         look.settings.uid != outer_uid(places);
}

// Returns what a good *look means.
Source look_for_config(const Places& places, bool by_uid, Identity* who, Look* look) {
  if (!by_uid) {
    if (who->job_id == 0) return Source::kNone;
    look_for_job(places, *who, look);
    if (look->found == Found::kNothing && !who->from_cgroup) look_for_component(places, who, look);
    if (!is_foreign(places, *who, *look)) return Source::kFile;
  }
  look_for_uid(places, who, look);
  return Source::kUid;
}

using Stamp = uint64_t[6];

void make_stamp(Source source, const sys::FileStatus& file, const sys::FileStatus& directory,
                Stamp& stamp) {
  const auto set = [&stamp](const sys::FileStatus& status) {
    const uint64_t facts[] = {status.device,   status.inode,    status.size,
                              status.mtime_ns, status.ctime_ns, status.links != 0};
    for (size_t i = 0; i < std::size(facts); i++) stamp[i] = stamp[i] * 31 + facts[i];
  };
  memset(stamp, 0, sizeof stamp);
  if (source == Source::kUid || source == Source::kClosed) set(directory);
  set(file);
}

// What the config does not say about the log, the user may.
void add_log_variables(Settings* settings) {
  const char* level = sys::variable("SOFTMIG_LOG_LEVEL");
  const char* file = sys::variable("SOFTMIG_LOG_FILE");
  if (!settings->log_level_set && level != nullptr) {
    policy::parse_value("SOFTMIG_LOG_LEVEL", level, settings);
  }
  if (settings->log_file[0] == '\0' && file != nullptr) {
    policy::parse_value("SOFTMIG_LOG_FILE", file, settings);
  }
}

// Reads one variable. False: a bad value, described in `error` if it is the first such.
bool read_variable(std::string_view key, std::string_view value, Settings* settings, Text& error) {
  const ParseStatus status = policy::parse_value(key, value, settings);
  if (status == ParseStatus::kOk) return true;
  if (error.size() == 0) {
    error.add("environment: ");
    describe(status, key, value, error);
  }
  return false;
}

void fail(Situation situation, Config* config) {
  if (policy::outcome_of(situation) == policy::Outcome::kClosed) config->source = Source::kClosed;
}

// From the last variable to the first: of two with one name the first counts, as for getenv. A bad
// value matters only where there is, or should be, a limit.
void read_environment(Config* config) {
  const char* const* variables = sys::environment();
  if (variables == nullptr) return;
  size_t count = 0;
  while (variables[count] != nullptr) count++;
  char text[sizeof config->error] = {};
  Text error(text);
  bool bad = false, bad_limit = false;
  for (size_t i = count; i > 0; i--) {
    const std::string_view variable = variables[i - 1];
    const size_t sign = variable.find('=');
    if (sign == std::string_view::npos || sign + 1 == variable.size()) continue;
    const std::string_view key = base::head(variable, sign), value = base::tail(variable, sign + 1);
    const policy::ConfigKey* row = policy::find_key(key);
    if (row == nullptr || row->places == policy::KeyPlaces::kFileOnly) continue;
    if (row->effect == Effect::kLogs) {
      policy::parse_value(key, value, &config->settings);
    } else if (!read_variable(key, value, &config->settings, error)) {
      bad = true;
      bad_limit |= row->effect == Effect::kLimits;
    }
  }
  const bool limits = config->settings.limits_anything();
  if (limits) config->source = Source::kEnvironment;
  if (!bad_limit && !(bad && limits)) return;
  memcpy(config->error, text, sizeof text);
  fail(Situation::kBadEnvironment, config);
}

// Lines that are due whatever the caller does with the config.
void report(const Places& places, const Config& config, const Look& look) {
  if (look.unknown_count == 0 && config.source != Source::kUid) return;
  log_configure(places, config);
  if (look.unknown_count > 0) {
    log(LogLevel::kError, "%s: %d unknown keys ignored, line and key: %-s", look.path,
        look.unknown_count, look.unknown);
  }
  if (config.source == Source::kUid) {
    log(LogLevel::kError,
        "the job of this process is hidden: the smallest limits of all jobs that may be its own "
        "apply, those of job %lu among them (uid %u)",
        config.identity.job_id, outer_uid(places));
  }
}

void take(Source source, const Look& look, Config* config) {
  config->source = source;
  config->settings = look.settings;
  memcpy(config->path, look.path, sizeof look.path);
  config->error[0] = '\0';
}

// Takes over what is known of an unusable file.
void take_error(const Look& look, Config* config) {
  memcpy(config->path, look.path, sizeof look.path);
  memcpy(config->error, look.error, sizeof look.error);
}

// The cgroup namespace of slurmd as root recorded it. A record that cannot be trusted, or cannot be
// told from this user's own files, does not tell; slurmd then is where the system began.
uint64_t slurmd_namespace(const RunDirectory& directory, bool* recorded) {
  char text[32], ignored[sizeof Config::error];
  Text error(ignored);
  sys::FileStatus status;
  bool absent = false;
  const int fd = directory.open("cgroup_ns", &status, &absent, error);
  *recorded = !absent;
  if (fd < 0) return kInitialCgroupNamespace;
  const long length = sys::read_some(fd, text, sizeof text);
  sys::close_file(fd);
  std::string_view number(text, length > 0 ? static_cast<size_t>(length) : 0);
  number = base::trim_blanks(base::head(number, number.find('\n')));
  uint64_t inode = 0;
  return to_number(number, &inode) ? inode : kInitialCgroupNamespace;
}

bool is_hidden(const Places& places) {
  char path[256];
  Text(path).add(places.proc).add("/self/ns/cgroup");
  sys::FileStatus own;
  if (!sys::status_of_path(path, &own)) return false;
  const RunDirectory directory(places);
  bool recorded = false;
  const uint64_t slurmd = slurmd_namespace(directory, &recorded);
  return recorded && slurmd != own.inode;
}

}  // namespace

Identity identify(const Places& places) {
  const sys::ErrnoGuard keep_errno;
  Identity who;
  who.hidden = is_hidden(places);
  if (!who.hidden) who.job_id = job_of_self(places.proc);
  who.from_cgroup = who.job_id != 0;
  if (!who.hidden && !who.from_cgroup) number_variable("SLURM_JOB_ID", &who.job_id);
  who.has_array = number_variable("SLURM_ARRAY_TASK_ID", &who.array_task);
  number_variable("SLURM_ARRAY_JOB_ID", &who.array_job);
  return who;
}

void load_config(const Places& places, Config* config) {
  const sys::ErrnoGuard keep_errno;
  *config = Config{};
  config->identity = identify(places);
  const bool by_uid = config->identity.hidden &&
                      policy::outcome_of(Situation::kHiddenJob) == policy::Outcome::kSmallest;
  Look look;
  const Source source = look_for_config(places, by_uid, &config->identity, &look);
  if (look.found == Found::kNothing) {
    read_environment(config);
    return;
  }
  if (look.found == Found::kGood) {
    take(source, look, config);
  } else {
    take_error(look, config);
    fail(Situation::kUnusableAtStart, config);
  }
  add_log_variables(&config->settings);
  make_stamp(config->source, look.status, look.directory, config->stamp);
  report(places, *config, look);
}

bool config_changed(const Places& places, const Config& config) {
  if (config.path[0] == '\0') return false;
  const sys::ErrnoGuard keep_errno;
  sys::FileStatus file, directory;
  sys::status_at(sys::kCurrentDirectory, config.path, &file);
  if (config.source == Source::kUid || config.source == Source::kClosed) {
    sys::status_at(sys::kCurrentDirectory, places.run_dir, &directory);
  }
  Stamp now;
  make_stamp(config.source, file, directory, now);
  return memcmp(now, config.stamp, sizeof now) != 0;
}

bool reload_config(const Places& places, Config* config) {
  if (config->path[0] == '\0') return false;
  const sys::ErrnoGuard keep_errno;
  const bool by_uid = config->identity.hidden || config->source == Source::kUid;
  Identity who = config->identity;  // its region and its log stay, so its names stay
  Look look;
  const Source source = look_for_config(places, by_uid, &who, &look);
  bool different = false;
  if (look.found == Found::kGood) {
    different =
        config->source == Source::kClosed || !policy::same_limits(config->settings, look.settings);
    take(source, look, config);
    add_log_variables(&config->settings);
    report(places, *config, look);
  } else if (look.found == Found::kBad) {
    take_error(look, config);
    fail(Situation::kBadRewrite, config);
  } else {
    Text error(config->error);
    base::format(error, "%s: is gone, the limits stay", config->path);
    fail(Situation::kDeleted, config);
    look.status = {};
  }
  make_stamp(config->source, look.status, look.directory, config->stamp);
  return different;
}

}  // namespace softmig::job
