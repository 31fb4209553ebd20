// softmig run: a program in a fresh slice, on the real GPU or on a simulated one.
#include <dlfcn.h>
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "cli/commands.h"
#include "cli/environment.h"
#include "cli/failure.h"
#include "cli/install.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "cli/sampler.h"
#include "cli/slice_dir.h"
#include "cli/supervise.h"
#include "job/calibration.h"
#include "job/config.h"
#include "job/region.h"
#include "policy/settings.h"

namespace softmig::cli {
namespace {

constexpr const char* kMemoryKey = "CUDA_DEVICE_MEMORY_LIMIT";
constexpr const char* kSmKey = "CUDA_DEVICE_SM_LIMIT";
constexpr const char* kSlotsKey = "SOFTMIG_SLOTS";
constexpr const char* kBoardKey = "SOFTMIG_BOARD";
constexpr const char* kRegionKey = "SOFTMIG_REGION";

struct Options {
  std::string memory, sm, slots, device, library, sim, sim_cuda = kSimulatedCuda[0];
  bool verbose = false;
  Rest command;

  bool limits() const { return !memory.empty() || !sm.empty(); }
};

class Run {
 public:
  explicit Run(Options options) : options_(std::move(options)) {}

  // Returns the status with which the program ended, as waitpid gives it.
  int operator()() {
    read_limits();
    look_around();
    Supervisor supervisor;  // from here on no signal ends this process before it has cleaned up
    if (!inside_) prepare_machine();
    if (!inside_ && (options_.limits() || !options_.sim.empty())) prepare_folder();
    export_limits();
    const pid_t root = supervisor.start(options_.command, environment_.entries());
    std::optional<Sampler> sampler;
    if (nvml_ != nullptr && slice_ != nullptr && options_.limits()) {
      sampler.emplace(slice_->region(), root, slice_->path() + "/", std::move(nvml_));
    }
    const int status = supervisor.wait();
    sampler.reset();
    report_survivors();
    return status;
  }

 private:
  void say(const std::string& text) const {
    if (options_.verbose) fmt::print(stderr, "softmig run: {}\n", printable(text));
  }

  void take(const char* option, const char* key, const std::string& text) {
    if (text.empty()) return;
    if (policy::parse_value(key, text, &limits_) == policy::ParseStatus::kOk) return;
    // The key's own words allow a 0, which is no limit.
    const char* wanted = std::string_view(key) == kSmKey ? "a whole number from 1 to 100"
                                                         : policy::find_key(key)->format;
    throw Failure(fmt::format("{}: \"{}\" is not {}", option, text, wanted));
  }

  void read_limits() {
    if (options_.command.empty()) {
      throw Failure("no command given", "for example: softmig run --memory 4G -- python train.py");
    }
    take("--memory", kMemoryKey, options_.memory);
    take("--sm", kSmKey, options_.sm);
    take("--slots", kSlotsKey, options_.slots);
    // The simulator quotes what it does not understand as it stands.
    if (printable(options_.sim) != options_.sim) {
      throw Failure(fmt::format("--sim {}: is not COUNTxSIZE", options_.sim),
                    "for example: --sim 2x48G");
    }
    if (!options_.memory.empty() && limits_.memory.general == 0) {
      throw Failure("--memory 0 would be no limit", "leave --memory out to limit GPU time alone");
    }
    if (!options_.sm.empty() && limits_.sm.general == 0) {
      throw Failure("--sm 0 would be no limit", "leave --sm out to limit memory alone");
    }
    if (!options_.limits() && options_.sim.empty()) {
      throw Failure("nothing to limit", "give --memory SIZE, --sm PERCENT or --sim GPUS");
    }
    if (!options_.slots.empty() && options_.sm.empty()) {
      throw Failure("--slots needs --sm", "slots say when a share of GPU time is taken");
    }
  }

  // Is this process in a slice already, and may it be made smaller?
  void look_around() {
    job::load_config(job::Places{}, &around_);
    const bool of_root = around_.source == job::Source::kFile ||
                         around_.source == job::Source::kUid ||
                         (around_.source == job::Source::kClosed && around_.path[0] != '\0');
    if (of_root && options_.limits()) {
      throw Failure(
          fmt::format("this is a slice of a Slurm job already ({}): its limits stay, and none can "
                      "be set inside it",
                      around_.path),
          "run the program without softmig run; softmig limits shows what it may use");
    }
    const std::string region = environment_.get(kRegionKey);
    if (of_root || !options_.sim.empty() || region.empty() || access(region.c_str(), R_OK) != 0) {
      return;
    }
    if (around_.source != job::Source::kEnvironment || !options_.limits()) return;
    inside_ = true;
    refuse_more("--memory", options_.memory, limits_.memory.general,
                around_.settings.memory.strictest(), kMemoryKey);
    refuse_more("--sm", options_.sm, limits_.sm.general, around_.settings.sm.strictest(), kSmKey);
    say(fmt::format("inside the slice {}: its use counts, with the smaller limits", region));
  }

  static void refuse_more(const char* option, const std::string& text, uint64_t wanted,
                          uint64_t outer, const char* key) {
    if (text.empty() || outer == 0 || wanted <= outer) return;
    const std::string had =
        key == std::string_view(kMemoryKey) ? size_text(outer) : fmt::format("{} %", outer);
    throw Failure(fmt::format("{} {} is more than the {} of the slice that this process is in",
                              option, text, had),
                  "inside a slice softmig run can only limit further");
  }

  // The GPUs, real or simulated; checked before anything is made.
  void prepare_machine() {
    // Our own look at the driver is to be unlimited, also where /etc/ld.so.preload names the
    // library.
    Environment clean = environment_;
    clean.remove_per_device(kMemoryKey);
    clean.remove_per_device(kSmKey);
    for (const std::string& entry : environment_.entries()) {
      const std::string name = entry.substr(0, entry.find('='));
      if (clean.get(name).empty()) unsetenv(name.c_str());
    }
    unsetenv(kRegionKey);
    if (options_.sim.empty()) find_gpu();
  }

  void find_gpu() {
    std::string error;
    nvml_ = Nvml::open(&error);
    constexpr const char* kHint =
        "to try it on a simulated GPU: softmig run --sim 1x48G --memory 4G -- COMMAND";
    if (nvml_ != nullptr) {
      if (nvml_->devices().empty()) throw Failure("the NVIDIA driver shows no GPU", kHint);
      note_context_cost();
      return;
    }
    void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver == nullptr) {
      throw Failure("no NVIDIA GPU here: the driver's library libcuda.so.1 was not found", kHint);
    }
    if (error.ends_with("is not there")) {
      say(error + ": only the library's own count is kept");
    } else {
      throw Failure("no usable NVIDIA GPU: " + error, kHint);
    }
  }

  void note_context_cost() const {
    for (const NvmlDevice& device : nvml_->devices()) {
      uint64_t cost = 0;
      if (limits_.memory.general == 0 || !job::calibrated_context_cost(device.name, &cost))
        continue;
      if (cost < limits_.memory.general) continue;
      fmt::print(stderr,
                 "softmig run: {} is less than one CUDA context on {} takes ({}): no program will "
                 "start\n",
                 size_text(limits_.memory.general), device.name, size_text(cost));
    }
  }

  void prepare_folder() {
    const int swept = sweep_dead_slices();
    if (swept > 0) say(fmt::format("removed what {} killed runs had left", swept));
    slice_ = std::make_unique<SliceDir>();
    if (!options_.sim.empty()) simulate();
    if (!options_.limits()) return;
    const int error = job::create_region_file(slice_->region().c_str(), geteuid(), getegid());
    if (error != 0) throw Failure(with_errno(slice_->region(), error));
    environment_.set(kRegionKey, slice_->region());
    load_library();
  }

  void simulate() {
    const std::string folder = find_simulator(options_.sim_cuda);
    if (folder.find_first_of(":;$") != std::string::npos) {
      throw Failure(folder + ": a path with one of : ; $ cannot stand in LD_LIBRARY_PATH");
    }
    // The machine's own choice of devices means nothing on other devices.
    environment_.remove("CUDA_VISIBLE_DEVICES");
    environment_.prepend("LD_LIBRARY_PATH", folder, ':');
    environment_.set("SOFTMIG_SIM", options_.sim);
    environment_.set("SOFTMIG_SIM_STATE", slice_->simulated_state());
    setenv("SOFTMIG_SIM", options_.sim.c_str(), 1);
    setenv("SOFTMIG_SIM_STATE", slice_->simulated_state().c_str(), 1);
    std::string error;
    nvml_ = Nvml::open(&error, folder + "/libnvidia-ml.so.1");
    if (nvml_ == nullptr || nvml_->devices().empty()) {
      throw Failure(fmt::format("--sim {}: {}", options_.sim,
                                nvml_ == nullptr ? error : "the simulator shows no GPU"),
                    "for example: --sim 2x48G");
    }
    say(fmt::format("simulated GPUs ({}), CUDA {}", options_.sim, options_.sim_cuda));
  }

  void load_library() {
    const std::string everywhere = system_preload();
    if (!everywhere.empty()) {
      if (!options_.library.empty()) {
        throw Failure(
            fmt::format("--library {}: /etc/ld.so.preload loads {} already, and two would "
                        "count everything twice",
                        options_.library, everywhere));
      }
      say("the library is loaded by /etc/ld.so.preload: " + everywhere);
      return;
    }
    std::string library = find_library(options_.library);
    say("library " + library);
    // LD_PRELOAD knows no quotes: a path with a blank goes by a name without. A wrong name there is
    // ignored by the dynamic loader, and the program would run without limits.
    constexpr const char* kSpecial = " :$";
    if (library.find_first_of(kSpecial) != std::string::npos) {
      const std::string link = slice_->path() + "/libsoftmig.so";
      if (link.find_first_of(kSpecial) != std::string::npos) {
        throw Failure(
            fmt::format("{}: a path with a blank or one of : $ cannot stand in LD_PRELOAD, "
                        "and {} is none without",
                        library, slice_->path()),
            "unset SLURM_TMPDIR, or put the library elsewhere (--library PATH)");
      }
      if (symlink(library.c_str(), link.c_str()) != 0) throw Failure(with_errno(link, errno));
      library = link;
    }
    preload(library, &environment_);
  }

  void export_limits() {
    if (!options_.device.empty()) {
      environment_.set("CUDA_VISIBLE_DEVICES",
                       visible_devices(options_.device, environment_, nvml_.get()));
    }
    if (!options_.limits()) return;
    const uint64_t bytes = limits_.memory.general;
    const bool whole = bytes % base::kMiB == 0;
    export_one(kMemoryKey, options_.memory,
               whole ? fmt::format("{}M", bytes / base::kMiB) : fmt::format("{}", bytes));
    export_one(kSmKey, options_.sm, fmt::format("{}", limits_.sm.general));
    if (!options_.slots.empty()) {
      environment_.set(kSlotsKey, options_.slots);
      const std::string board = board_folder();
      if (!board.empty()) environment_.set(kBoardKey, board);
    }
    const char* rest = inside_ ? "as before" : "no limit";
    say(fmt::format("limits: memory {}, GPU time {}",
                    options_.memory.empty() ? rest : size_text(bytes),
                    options_.sm.empty() ? rest : options_.sm + " %"));
  }

  // A fresh slice has the limits that were given and no others.
  void export_one(const char* key, const std::string& given, const std::string& value) {
    if (!inside_ || !given.empty()) environment_.remove_per_device(key);
    if (!given.empty()) environment_.set(key, value);
  }

  void report_survivors() const {
    if (slice_ == nullptr || !options_.verbose) return;
    const size_t count = slice_->users().size();
    if (count == 0) return;
    say(fmt::format("{} processes of the slice still run; {} stays until a later softmig run",
                    count, slice_->path()));
  }

  Options options_;
  policy::Settings limits_;
  job::Config around_;
  bool inside_ = false;
  Environment environment_;
  std::unique_ptr<Nvml> nvml_;
  std::unique_ptr<SliceDir> slice_;
};

constexpr const char* kFooter =
    R"(The program keeps its arguments, its environment, its terminal and its signals; softmig run ends
as it ends. Examples:
  softmig run --memory 4G -- python train.py --epochs 3
  softmig run --memory 12G --sm 25 --device 1 -- ./simulate
  softmig run --sim 2x48G --memory 4G -- ./my_driver_api_program
Exit status: that of the program (128+N if signal N ended it); 125 if softmig run itself failed,
126 if the program cannot be run, 127 if it was not found.)";

// The command begins behind the first "--", or where the options end.
Rest command_of(const std::vector<std::string>& unparsed, const Rest& rest) {
  if (!unparsed.empty() && unparsed.front().starts_with('-')) {
    throw Failure("no such option: " + unparsed.front(), "softmig run --help tells more");
  }
  Rest command = unparsed;
  const bool dashes_begin_it = unparsed.empty() && !rest.empty();
  command.insert(command.end(), rest.begin() + (dashes_begin_it ? 1 : 0), rest.end());
  return command;
}

class Formatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = CLI::Formatter::make_usage(app, std::move(name));
    while (usage.ends_with('\n')) usage.pop_back();
    return usage + " [--] COMMAND [ARGUMENTS...]\n";
  }
};

}  // namespace

void add_run(CLI::App& app, const Rest& rest, int* status) {
  auto options = std::make_shared<Options>();
  CLI::App* run = app.add_subcommand("run", "Run a program in a fresh slice of a GPU");
  run->formatter(std::make_shared<Formatter>());
  run->footer(kFooter);
  run->prefix_command();
  run->add_option("-m,--memory", options->memory,
                  "GPU memory of the slice, contexts included: 4G, 512M")
      ->type_name("SIZE");
  run->add_option("--sm", options->sm, "Share of each GPU's time, 1 to 100")->type_name("PERCENT");
  run->add_option("--slots", options->slots, "Slots of a frame of GPU time, such as 0,2/4")
      ->type_name("LIST/COUNT");
  run->add_option("-d,--device", options->device,
                  "GPUs to be seen: CUDA's numbers or UUIDs, with commas")
      ->type_name("LIST");
  run->add_option("--sim", options->sim, "Simulated GPUs in place of the real ones: 2x48G")
      ->type_name("COUNTxSIZE");
  run->add_option("--sim-cuda", options->sim_cuda,
                  "CUDA of the simulated driver: 13.0 (default), 12.4, 12.0")
      ->check(
          CLI::IsMember({kSimulatedCuda[0], kSimulatedCuda[1], kSimulatedCuda[2]}).description(""))
      ->type_name("VERSION");
  run->add_option("--library", options->library, "The libsoftmig.so to load")->type_name("PATH");
  run->add_flag("-v,--verbose", options->verbose, "Say on standard error what is done");
  run->callback([run, options, &rest, status] {
    options->command = command_of(run->remaining(), rest);
    *status = Run(*options)();
  });
}

}  // namespace softmig::cli
