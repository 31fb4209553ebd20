// softmig calibrate: what a CUDA context costs on the GPUs of this machine.
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/gpu_worker.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "job/calibration.h"
#include "job/config.h"
#include "sys/publish.h"

namespace softmig::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kWanted = 3;     // undisturbed measurements of each GPU
constexpr int kAttempts = 10;  // to get them
constexpr uint64_t kPage = 2 * base::kMiB;
// Neighbours that move the card's figure by more than this while we measure disturb us.
constexpr uint64_t kStill = 1 * base::kMiB;
// What the driver keeps for a context and does not list is 3 to 9 MiB on an H100.
constexpr uint64_t kMostUnlisted = 32 * base::kMiB;
// Streams, events and the growth of a context that is used: 32 streams take 3 % more on an H100.
constexpr uint64_t kMarginDivisor = 32;
constexpr useconds_t kPollUs = 20'000;
constexpr int kPolls = 100;  // two seconds for the driver to give a dead process's memory back

// One context, made and used in a process that then ended.
struct Sample {
  uint64_t listed = 0;   // bytes in the process list, 0: the driver does not tell
  uint64_t on_card = 0;  // how much more of the card was used
  bool still = false;    // the card was as full afterwards as before: nobody else moved

  // Both figures tell of the same; else a neighbour moved in between, and back.
  bool agrees() const {
    return listed == 0 || (on_card + kStill >= listed && on_card <= listed + kMostUnlisted);
  }
};

struct Cost {
  uint64_t bytes = 0;  // with the margin
  uint64_t measured = 0;
  bool busy = false;  // from the process list alone
  int samples = 0;
};

uint64_t median(std::vector<uint64_t> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

uint64_t with_margin(uint64_t measured) {
  return base::round_up(measured + measured / kMarginDivisor, kPage);
}

std::string failed_text(const char* what, const GpuAnswer& answer) {
  return fmt::format("{} gave {} ({})", what, answer.text, answer.code);
}

class Measure {
 public:
  Measure(const Nvml& nvml, const NvmlDevice& device) : nvml_(nvml), device_(device) {}

  Cost operator()() {
    std::vector<Sample> still, all;
    for (int i = 0; i < kAttempts && still.size() < kWanted; i++) {
      all.push_back(once());
      if (all.back().still && all.back().agrees()) still.push_back(all.back());
    }
    return still.size() == kWanted ? from_still(still) : from_busy(all);
  }

 private:
  uint64_t used() const {
    const std::optional<NvmlMemory> memory = nvml_.memory(device_.handle);
    if (!memory) throw Failure(device_.name + ": NVML does not say how much memory is used");
    return memory->used;
  }

  uint64_t listed(pid_t pid) const {
    for (const NvmlProcess& process :
         nvml_.processes(device_.handle).value_or(std::vector<NvmlProcess>())) {
      if (process.pid == static_cast<uint32_t>(pid) && process.known) return process.bytes;
    }
    return 0;
  }

  Sample once() const {
    Sample sample;
    const uint64_t before = used();
    {
      auto worker = GpuWorker::start();
      const GpuAnswer opened = worker->open(device_.uuid_text);
      if (!opened.ok) throw Failure(failed_text("making a context", opened));
      // Without a compiler for its code the driver still makes the context, which is most of it.
      worker->launch();
      const uint64_t now = used();
      sample.on_card = now > before ? now - before : 0;
      sample.listed = listed(worker->pid());
    }
    for (int i = 0; i < kPolls && !sample.still; i++) {
      const uint64_t after = used();
      sample.still = std::max(before, after) - std::min(before, after) <= kStill;
      if (!sample.still) usleep(kPollUs);
    }
    return sample;
  }

  static Cost from_still(const std::vector<Sample>& samples) {
    std::vector<uint64_t> costs;
    costs.reserve(samples.size());
    for (const Sample& sample : samples) costs.push_back(std::max(sample.listed, sample.on_card));
    Cost cost;
    cost.measured = median(costs);
    cost.bytes = with_margin(cost.measured);
    cost.samples = static_cast<int>(samples.size());
    return cost;
  }

  // Neighbours cannot change what the process list says of our own process.
  Cost from_busy(const std::vector<Sample>& samples) const {
    std::vector<uint64_t> costs;
    for (const Sample& sample : samples) {
      if (sample.listed != 0) costs.push_back(sample.listed);
    }
    if (costs.empty()) {
      throw Failure(fmt::format("GPU {}: other processes changed the memory in use during all {} "
                                "measurements, and the driver lists no process of ours",
                                device_.index, samples.size()),
                    "try again when the GPU is idle");
    }
    Cost cost;
    cost.measured = median(costs);
    // What the list leaves out is about as much as the margin on every card that we know.
    cost.bytes = with_margin(cost.measured + cost.measured / kMarginDivisor);
    cost.busy = true;
    cost.samples = static_cast<int>(costs.size());
    return cost;
  }

  const Nvml& nvml_;
  const NvmlDevice& device_;
};

// The file as it will be: lines of other models and drivers stay.
class CalibrationFile {
 public:
  explicit CalibrationFile(std::string path) : path_(std::move(path)) {
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) lines_.push_back(line);
    if (lines_.empty()) {
      lines_.emplace_back("# What a CUDA context costs, measured by softmig calibrate.");
      lines_.emplace_back("# driver version<TAB>name of the GPU<TAB>bytes");
    }
  }

  void set(const std::string& driver, const std::string& name, uint64_t bytes) {
    const std::string start = driver + "\t" + name + "\t";
    std::erase_if(lines_, [&](const std::string& line) { return line.starts_with(start); });
    lines_.push_back(start + std::to_string(bytes));
  }

  void write() const {
    std::string text;
    for (const std::string& line : lines_) text += line + '\n';
    if (path_ == job::kCalibrationFile) make_folder();
    const int error = sys::publish_file(path_.c_str(), text.data(), text.size(), 0644);
    if (error != 0) throw Failure(with_errno(path_, error));
  }

 private:
  static void make_folder() {
    const fs::path folder = fs::path(job::kCalibrationFile).parent_path();
    if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
      throw Failure(with_errno(folder.string(), errno));
    }
  }

  std::string path_;
  std::vector<std::string> lines_;
};

struct Options {
  std::string device, output = job::kCalibrationFile;
};

void check_place(const Options& options) {
  job::Config config;
  job::load_config(job::Places{}, &config);
  if (config.source != job::Source::kNone) {
    throw Failure("this process is in a slice: the driver's own figures cannot be seen from here",
                  "run softmig calibrate outside of jobs and of softmig run");
  }
  if (options.output == job::kCalibrationFile && geteuid() != 0) {
    throw Failure(fmt::format("only root can write {}", job::kCalibrationFile),
                  "run it as root, or choose another file with --output");
  }
}

// One GPU of each model, or those that were asked for.
std::vector<NvmlDevice> choose(const Nvml& nvml, const std::string& wanted) {
  std::vector<NvmlDevice> chosen;
  std::set<std::string> models;
  for (const NvmlDevice& device : nvml.devices()) {
    const bool is_wanted =
        wanted.empty() ? models.insert(device.name).second
                       : wanted == std::to_string(device.index) || wanted == device.uuid_text;
    if (is_wanted) chosen.push_back(device);
  }
  if (chosen.empty()) {
    throw Failure(wanted.empty()
                      ? "the NVIDIA driver shows no GPU"
                      : fmt::format("--device {}: nvidia-smi -L shows no such GPU", wanted));
  }
  return chosen;
}

void calibrate(const Options& options) {
  check_place(options);
  unsetenv("CUDA_VISIBLE_DEVICES");  // what this shell may see is not what the machine has
  std::string error;
  const auto nvml = Nvml::open(&error);
  if (nvml == nullptr) throw Failure("no NVIDIA GPU: " + error);
  const std::string driver = nvml->driver_version();
  CalibrationFile file(options.output);
  for (const NvmlDevice& device : choose(*nvml, options.device)) {
    fmt::print("GPU {}  {}, driver {}\n", device.index, printable(device.name), driver);
    std::fflush(stdout);
    const Cost cost = Measure(*nvml, device)();
    if (cost.busy) {
      fmt::print(
          "  busy: other processes changed the memory in use; the figure is that of the\n"
          "  process list, with twice the margin. Repeat it when the GPU is idle.\n");
    }
    fmt::print("  a context takes {} (median of {}); reserved for each: {}\n",
               size_text(cost.measured), cost.samples, size_text(cost.bytes));
    file.set(driver, device.name, cost.bytes);
  }
  file.write();
  fmt::print("written to {}\n", options.output);
}

constexpr const char* kFooter =
    R"(A process makes a context on one GPU of each model, loads a module and runs a kernel; the cost is
the larger of what the driver lists for it and what the card has less, the median of three times,
plus 1/32 for streams, rounded up to 2 MiB. Where other processes use the GPU meanwhile, the
measurement is repeated, up to ten times. Programs that start afterwards reserve this cost.)";

}  // namespace

void add_calibrate(CLI::App& app, int* status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("calibrate", "Measure what a CUDA context costs here");
  command->add_option("-d,--device", options->device, "One GPU alone: nvidia-smi's number or UUID")
      ->type_name("GPU");
  command->add_option("-o,--output", options->output, "File to write")
      ->type_name("FILE")
      ->capture_default_str();
  command->footer(kFooter);
  command->callback([options, status] {
    calibrate(*options);
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
