#include "cli/node_view.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "cli/node_state.h"
#include "cli/output.h"
#include "cli/slice_dir.h"
#include "job/cgroup.h"
#include "job/extra.h"
#include "job/region.h"
#include "sys/clock.h"
#include "sys/files.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMostEnvironment = size_t{256} * 1024;

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 20 &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

uint64_t number_of(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code ended;
  fs::directory_iterator entry(folder, ended);
  for (; !ended && entry != fs::directory_iterator(); entry.increment(ended)) {
    names.push_back(entry->path().filename());
  }
  return names;
}

std::optional<uint32_t> owner_of(const std::string& path) {
  struct stat status = {};
  if (lstat(path.c_str(), &status) != 0) return std::nullopt;
  return status.st_uid;
}

// Root takes the rights of a user while this exists: a path that he chose may lead anywhere.
class AsUser {
 public:
  explicit AsUser(uint32_t uid) : before_(geteuid()), works_(seteuid(uid) == 0) {}
  ~AsUser() {
    if (works_ && seteuid(before_) != 0) std::abort();
  }
  AsUser(const AsUser&) = delete;
  AsUser& operator=(const AsUser&) = delete;
  bool works() const { return works_; }

 private:
  const uid_t before_;
  const bool works_;
};

// A process that `softmig run` put into a slice, by the environment that it was started with.
struct Member {
  uint32_t uid = 0;
  policy::Settings settings;
};

class Environ {
 public:
  explicit Environ(const std::string& process) {
    std::ifstream file(process + "/environ", std::ios::binary);
    text_.resize(kMostEnvironment);
    file.read(text_.data(), static_cast<std::streamsize>(text_.size()));
    text_.resize(static_cast<size_t>(file.gcount()));
  }

  std::string get(std::string_view name) const {
    std::string_view rest = text_;
    while (!rest.empty()) {
      const std::string_view entry = rest.substr(0, rest.find('\0'));
      if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
        return std::string(entry.substr(name.size() + 1));
      }
      rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
    }
    return {};
  }

  policy::Settings settings() const {
    policy::Settings settings;
    for (const policy::ConfigKey& key : policy::config_keys()) {
      const std::string value = get(key.name);
      if (!value.empty()) policy::parse_value(key.name, value, &settings);
    }
    return settings;
  }

 private:
  std::string text_;
};

// Whether root's config limits this process: what its environment says then means nothing.
bool is_of_job(const job::Places& places, uint32_t pid) {
  const uint64_t id = job::job_of_process(places.proc, pid);
  return id != 0 && sys::exists(fmt::format("{}/{}.conf", places.run_dir, id).c_str());
}

// Slices of `softmig run` by the path of their region. Those of other simulated machines are left
// out, and on a simulated machine those of the real one.
std::map<std::string, Member> members_of_runs(const job::Places& places) {
  const char* state = std::getenv("SOFTMIG_SIM_STATE");
  const std::string machine = state == nullptr ? "" : state;
  std::map<std::string, Member> members;
  for (const std::string& name : names_in(places.proc)) {
    if (!is_number(name)) continue;
    const std::string process = fmt::format("{}/{}", places.proc, name);
    const Environ environment(process);
    const std::string region = environment.get("SOFTMIG_REGION");
    const auto uid = owner_of(process);
    if (region.empty() || region.front() != '/' || !uid || members.contains(region)) continue;
    if (geteuid() != 0 && *uid != geteuid()) continue;
    if (environment.get("SOFTMIG_SIM_STATE") != machine) continue;
    if (is_of_job(places, static_cast<uint32_t>(number_of(name)))) continue;
    members[region] = {*uid, environment.settings()};
  }
  return members;
}

std::string run_name(const std::string& region) {
  const std::string folder = fs::path(region).parent_path().filename();
  if (!folder.starts_with(kSliceDirPrefix)) return printable(fs::path(region).filename().string());
  return "run." + printable(folder.substr(kSliceDirPrefix.size()));
}

std::string uuid_text(const policy::Uuid& uuid) {
  std::string text = "GPU-";
  for (size_t i = 0; i < sizeof uuid.byte; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid.byte[i]);
  }
  return text;
}

// What there is of a device before the region is looked at.
SeenDevice named_device(uint64_t key, const std::vector<SeenGpu>& gpus) {
  SeenDevice device;
  device.key = key;
  for (const SeenGpu& gpu : gpus) {
    if (gpu.key != key) continue;
    device.index = gpu.index;
    device.name = gpu.name;
    device.uuid = gpu.uuid;
    device.card = gpu.memory;
  }
  return device;
}

// The GPUs that the config names, and those that were used all the same.
std::vector<SeenDevice> devices_of(const policy::Settings& settings, const RegionLook& look,
                                   const std::vector<SeenGpu>& gpus) {
  std::vector<uint64_t> keys;
  keys.reserve(abi::kMaxDevices);
  for (int i = 0; i < settings.gpu_count; i++) keys.push_back(job::device_key(settings.gpu[i]));
  for (const job::ViewedDevice& device : look.view.device) {
    if (device.key != 0 && std::find(keys.begin(), keys.end(), device.key) == keys.end()) {
      keys.push_back(device.key);
    }
  }
  // With one GPU there is no doubt which one it will be.
  if (keys.empty()) keys.push_back(gpus.size() == 1 ? gpus.front().key : 0);
  std::vector<SeenDevice> devices;
  devices.reserve(keys.size());
  for (const uint64_t key : keys) devices.push_back(named_device(key, gpus));
  return devices;
}

int config_index(const policy::Settings& settings, uint64_t key) {
  for (int i = 0; i < settings.gpu_count; i++) {
    if (job::device_key(settings.gpu[i]) == key) return i;
  }
  return -1;
}

void fill_use(const RegionLook& look, int index, SeenDevice* device) {
  const job::ViewedDevice& seen = look.view.device[index];
  device->used = seen.used + device->beyond_ledger;
  device->peak = seen.peak;
  device->refusals = seen.refusals;
  device->compute = {seen.gpu_ns, seen.waited_ns, seen.launches, seen.graph_launches};
  for (const job::ViewedProcess& process : look.processes) {
    const job::ViewedCompute& compute = process.compute[index];
    if (process.bytes[index] == 0 && compute.launches + compute.graph_launches == 0) continue;
    device->processes.push_back({process.pid, process.uid, process.foreign, process.bytes[index],
                                 process.context_bytes[index], compute});
  }
}

void fill(const policy::Settings& settings, const RegionLook& look, const abi::ExtraPage& extra,
          SeenDevice* device) {
  const int place = config_index(settings, device->key);
  if (place >= 0) device->uuid = uuid_text(settings.gpu[place]);
  device->memory_limit = policy::memory_limit(settings, place);
  if (device->card != 0 && device->memory_limit > device->card) device->memory_limit = device->card;
  device->sm_limit = policy::sm_limit(settings, place);
  for (uint32_t i = 0; i < extra.device_count; i++) {
    if (extra.device[i].key == device->key) device->beyond_ledger = extra.device[i].bytes;
  }
  const int index = look.index_of(device->key);
  if (index >= 0) fill_use(look, index, device);
}

std::vector<SeenGpu> gpus_of(const Nvml& nvml) {
  std::vector<SeenGpu> gpus;
  for (const NvmlDevice& device : nvml.devices()) {
    const auto memory = nvml.memory(device.handle).value_or(NvmlMemory());
    gpus.push_back({device.index, printable(device.name), device.uuid_text, device.key,
                    memory.total, memory.used, nvml.busy(device.handle)});
  }
  return gpus;
}

// The job's region, where the prolog made none: known only to the job itself.
std::string region_of_job(const job::Places& places, const std::string& name, uint64_t job_id) {
  std::string made = fmt::format("{}/{}.region", places.run_dir, job_id);
  job::Config own;
  char path[job::kMaxPath] = {};
  if (sys::exists(made.c_str()) || job::identify(places).job_id != job_id) return made;
  job::load_config(places, &own);
  const bool is_this = fs::path(own.path).filename() == name + ".conf";
  return is_this && job::region_path(places, own, path) ? path : made;
}

std::vector<SeenSlice> slices_of_jobs(const job::Places& places, const std::vector<SeenGpu>& gpus) {
  std::vector<SeenSlice> slices;
  for (const std::string& file : names_in(places.run_dir)) {
    const std::string name = job_of_config_name(file);
    if (name.empty()) continue;
    policy::Settings settings;
    std::string error;
    if (!read_job_config(places, file, &settings, &error) && error.empty()) continue;  // gone
    const uint64_t job_id = number_of(name.substr(0, name.find('_')));
    const std::string region = region_of_job(places, name, job_id);
    const auto uid = settings.uid_set ? std::optional(settings.uid) : owner_of(region);
    if (geteuid() != 0 && uid != geteuid()) continue;
    SeenSlice slice = make_slice(settings, region, gpus);
    slice.name = name;
    slice.job_id = job_id;
    slice.uid = uid;
    slice.error = error;
    slice.config = fmt::format("{}/{}", places.run_dir, file);
    slices.push_back(std::move(slice));
  }
  return slices;
}

std::vector<SeenSlice> slices_of_runs(const job::Places& places, const std::vector<SeenGpu>& gpus) {
  std::vector<SeenSlice> slices;
  for (const auto& [region, member] : members_of_runs(places)) {
    const AsUser rights(member.uid);
    if (!rights.works() || owner_of(region) != member.uid) continue;
    SeenSlice slice = make_slice(member.settings, region, gpus);
    slice.name = run_name(region);
    slice.uid = member.uid;
    slices.push_back(std::move(slice));
  }
  return slices;
}

Json or_null(uint64_t value) {
  if (value == 0) return nullptr;
  return value;
}
Json or_null(const std::string& text) {
  if (text.empty()) return nullptr;
  return text;
}

Json to_json(const SeenProcess& process) {
  return {{"pid", process.pid},
          {"uid", process.uid},
          {"bytes", process.bytes},
          {"context_bytes", process.context_bytes},
          {"gpu_time_ns", process.compute.gpu_ns},
          {"waited_ns", process.compute.waited_ns},
          {"launches", process.compute.launches},
          {"graph_launches", process.compute.graph_launches},
          {"foreign_pid_namespace", process.foreign}};
}

Json to_json(const SeenDevice& device) {
  Json processes = Json::array();
  for (const SeenProcess& process : device.processes) processes.push_back(to_json(process));
  return {{"index", device.index < 0 ? Json(nullptr) : Json(device.index)},
          {"uuid", or_null(device.uuid)},
          {"key", device.key == 0 ? Json(nullptr) : Json(fmt::format("{:016x}", device.key))},
          {"memory_limit", or_null(device.memory_limit)},
          {"used", device.used},
          {"beyond_ledger", device.beyond_ledger},
          {"peak", device.peak},
          {"refusals", device.refusals},
          {"sm_limit", or_null(device.sm_limit)},
          {"gpu_time_ns", device.compute.gpu_ns},
          {"waited_ns", device.compute.waited_ns},
          {"launches", device.compute.launches},
          {"graph_launches", device.compute.graph_launches},
          {"processes", std::move(processes)}};
}

Json to_json(const SeenGpu& gpu) {
  return {{"index", gpu.index}, {"name", gpu.name},
          {"uuid", gpu.uuid},   {"memory", or_null(gpu.memory)},
          {"used", gpu.used},   {"busy_percent", gpu.busy ? Json(*gpu.busy) : Json(nullptr)}};
}

}  // namespace

SeenSlice make_slice(const policy::Settings& settings, const std::string& region,
                     const std::vector<SeenGpu>& gpus) {
  SeenSlice slice;
  slice.region = region;
  const RegionLook look = look_at_region(region);
  slice.region_status = look.status;
  slice.created_ns = look.view.created_ns;
  if (settings.slot_count != 0)
    slice.slots = slots_text(settings.slot_mask_lo, settings.slot_count);
  abi::ExtraPage extra = {};
  if (!job::read_extra_page(region.c_str(), &extra)) extra.device_count = 0;
  slice.devices = devices_of(settings, look, gpus);
  for (SeenDevice& device : slice.devices) fill(settings, look, extra, &device);
  return slice;
}

NodeWatch::NodeWatch(job::Places places) : places_(places), nvml_(Nvml::open(&trouble_)) {}

NodeView NodeWatch::look() const {
  NodeView view;
  view.node = host_name();
  view.trouble = trouble_;
  view.taken_ns = sys::monotonic_ns();
  if (nvml_ != nullptr) {
    view.driver = nvml_->driver_version();
    view.gpus = gpus_of(*nvml_);
  }
  view.slices = slices_of_jobs(places_, view.gpus);
  std::sort(view.slices.begin(), view.slices.end(), [](const SeenSlice& a, const SeenSlice& b) {
    return a.job_id != b.job_id ? a.job_id < b.job_id : a.name < b.name;
  });
  std::vector<SeenSlice> runs = slices_of_runs(places_, view.gpus);
  std::move(runs.begin(), runs.end(), std::back_inserter(view.slices));
  return view;
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return printable(name);
}

Json to_json(const SeenSlice& slice) {
  Json devices = Json::array();
  for (const SeenDevice& device : slice.devices) devices.push_back(to_json(device));
  return {{"name", slice.name},
          {"job", or_null(slice.job_id)},
          {"uid", slice.uid ? Json(*slice.uid) : Json(nullptr)},
          {"user", slice.uid ? Json(user_name(*slice.uid)) : Json(nullptr)},
          {"error", or_null(slice.error)},
          {"config", or_null(slice.config)},
          {"region", or_null(slice.region)},
          {"slots", or_null(slice.slots)},
          {"devices", std::move(devices)}};
}

Json to_json(const NodeView& view) {
  Json gpus = Json::array(), slices = Json::array();
  for (const SeenGpu& gpu : view.gpus) gpus.push_back(to_json(gpu));
  for (const SeenSlice& slice : view.slices) slices.push_back(to_json(slice));
  return {{"node", view.node},
          {"driver", or_null(view.driver)},
          {"monotonic_ns", view.taken_ns},
          {"gpus", std::move(gpus)},
          {"slices", std::move(slices)}};
}

}  // namespace softmig::cli
