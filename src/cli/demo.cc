// softmig demo: shows on this machine what a slice does, and checks it.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "cli/commands.h"
#include "cli/environment.h"
#include "cli/failure.h"
#include "cli/gpu_worker.h"
#include "cli/install.h"
#include "cli/nvml.h"
#include "cli/output.h"
#include "cli/share_demo.h"
#include "cli/visible.h"
#include "job/config.h"

namespace softmig::cli {
namespace {

constexpr uint64_t kLimit = 4 * base::kGiB;
constexpr uint64_t kPiece = 512 * base::kMiB;
constexpr const char* kSimulated = "1x80G:h100";
constexpr int kBarWidth = 32;
constexpr int kGivenBackPolls = 100;
constexpr useconds_t kPollUs = 10'000;
// Points of the GPU's time. A simulated GPU needs processors to be on time.
constexpr double kMargin = 2, kSimulatedMargin = 5;

// The two processes of the slice: softmig run starts them together, we hold their pipes.
class TwoInOneSlice {
 public:
  TwoInOneSlice() {
    std::array<int, 2> to_a, from_a, to_b, from_b;
    for (auto* ends : {&to_a, &from_a, &to_b, &from_b}) {
      if (pipe2(ends->data(), O_CLOEXEC) != 0) throw Failure(with_errno("pipe", errno));
    }
    const std::string worker = "\"$0\" gpu-worker";
    const auto redirected = [&](const std::array<int, 2>& in, const std::array<int, 2>& out) {
      return fmt::format("{} </dev/fd/{} >/dev/fd/{} &", worker, in[0], out[1]);
    };
    const std::string script = redirected(to_a, from_a) + " " + redirected(to_b, from_b) + " wait";
    child_ = fork();
    if (child_ < 0) throw Failure(with_errno("a process cannot be started", errno));
    if (child_ == 0) become_run(script, {to_a[0], from_a[1], to_b[0], from_b[1]});
    for (const int end : {to_a[0], from_a[1], to_b[0], from_b[1]}) close(end);
    a = std::make_unique<GpuWorker>(to_a[1], from_a[0]);
    b = std::make_unique<GpuWorker>(to_b[1], from_b[0]);
    if (!a->greet() || !b->greet()) throw Failure("softmig run did not start the programs");
  }

  ~TwoInOneSlice() {
    a.reset();
    b.reset();
    waitpid(child_, nullptr, 0);
  }
  TwoInOneSlice(const TwoInOneSlice&) = delete;
  TwoInOneSlice& operator=(const TwoInOneSlice&) = delete;

  std::unique_ptr<GpuWorker> a, b;

 private:
  [[noreturn]] static void become_run(const std::string& script,
                                      const std::vector<int>& inherited) {
    for (const int fd : inherited) fcntl(fd, F_SETFD, 0);
    const std::string binary = own_path();
    const std::string memory = std::to_string(kLimit / base::kMiB) + "M";
    execl(binary.c_str(), "softmig", "run", "--memory", memory.c_str(), "--", "sh", "-c",
          script.c_str(), binary.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }

  pid_t child_ = -1;
};

std::string bar(uint64_t used, uint64_t total) {
  const auto filled = static_cast<size_t>(std::min(used, total) * kBarWidth / total);
  return std::string(filled, '#') + std::string(kBarWidth - filled, '.');
}

class Demo {
 public:
  Demo(const Nvml& nvml, const NvmlDevice& device, bool simulated, std::string plot)
      : nvml_(nvml), device_(device), simulated_(simulated), plot_(std::move(plot)) {}

  int operator()() {
    card();
    memory();
    four_programs();
    return verdict();
  }

 private:
  void title(const std::string& text) {
    fmt::print("\n{}\n", style_.bold(fmt::format("{}. {}", ++step_, text)));
    std::fflush(stdout);
  }

  // A promise, and whether it holds.
  void check(bool holds, const std::string& promise) {
    checks_++;
    failed_ += holds ? 0 : 1;
    fmt::print("   {} {}\n", holds ? style_.good("[ok]") : style_.bad("[NOT SO]"), promise);
    std::fflush(stdout);
  }

  void memory() {
    TwoInOneSlice slice;
    view(*slice.a);
    stop_at_limit(*slice.a);
    share(slice);
  }

  void card() {
    title("The card, as any program sees it");
    const auto memory = nvml_.memory(device_.handle).value_or(NvmlMemory());
    card_total_ = memory.total;
    fmt::print("   {}, driver {}{}\n", printable(device_.name), nvml_.driver_version(),
               simulated_ ? style_.bold("  (simulated)") : "");
    fmt::print("   {} in all, {} in use\n", size_text(memory.total), size_text(memory.used));
  }

  void view(GpuWorker& worker) {
    title("What a program sees in a slice of " + size_text(kLimit));
    fmt::print("   {}\n", style_.dim("$ softmig run --memory 4G -- PROGRAM"));
    must(worker.open(device_.uuid_text), "making a context");
    const GpuAnswer seen = info(worker);
    context_ = seen.numbers[1] - seen.numbers[0];
    using enum Table::Align;
    Table table({kLeft, kRight, kRight});
    table.add({"", "CARD", "IN THE SLICE"});
    table.add({"cuDeviceTotalMem", size_text(card_total_), size_text(seen.numbers[2])});
    table.add({"cuMemGetInfo: total", "", size_text(seen.numbers[1])});
    table.add({"cuMemGetInfo: free", "", size_text(seen.numbers[0])});
    fmt::print("{}", table.text(style_, "   "));
    fmt::print("   The program's own CUDA context counts: {} are set aside for it.\n",
               size_text(context_));
    check(seen.numbers[1] == kLimit && seen.numbers[2] == kLimit,
          "the program sees its slice and not the card");
  }

  void stop_at_limit(GpuWorker& worker) {
    title("An allocation that stops at the limit");
    GpuAnswer answer;
    for (uint64_t pieces = 0; pieces <= kLimit / kPiece; pieces++) {
      answer = worker.allocate(kPiece);
      if (!answer.ok) break;
      const uint64_t used = kLimit - info(worker).numbers[0];
      fmt::print("   cuMemAlloc {}  [{}] {:>8} of {}\n", size_text(kPiece), bar(used, kLimit),
                 size_text(used), size_text(kLimit));
      std::fflush(stdout);
    }
    fmt::print("   cuMemAlloc {}  {}\n", size_text(kPiece),
               style_.bold(fmt::format("{} ({})", answer.text, answer.code)));
    check(answer.code == 2, "the program is told CUDA_ERROR_OUT_OF_MEMORY, and lives");
    driver_agrees(worker);
  }

  // NVML read from this process, which is not in the slice.
  void driver_agrees(const GpuWorker& worker) {
    const std::optional<uint64_t> held = listed({worker.pid()});
    if (!held) {
      fmt::print("   The driver does not list processes here, so its own figure is not known.\n");
      return;
    }
    fmt::print("   The driver's own figure for the program, read outside of the slice: {}\n",
               size_text(*held));
    check(*held <= kLimit, "the GPU never gave it more than the limit");
  }

  void share(TwoInOneSlice& slice) {
    title("Two processes, one limit");
    must(slice.a->free_all(), "cuMemFree");
    must(slice.b->open(device_.uuid_text), "making a second context");
    const uint64_t room = info(*slice.a).numbers[0] / kPiece * kPiece;
    must(slice.a->allocate(room), "cuMemAlloc");
    fmt::print("   A (pid {}) holds {}. B (pid {}) starts in the same slice.\n", slice.a->pid(),
               size_text(room), slice.b->pid());
    const GpuAnswer refused = slice.b->allocate(kPiece);
    fmt::print("   B asks for {}:  {}\n", size_text(kPiece), outcome(refused));
    check(refused.code == 2, "what A holds, B cannot have");
    const std::optional<uint64_t> held = listed({slice.a->pid(), slice.b->pid()});
    if (held) {
      check(*held <= kLimit,
            fmt::format("both together hold {} by the driver's own figures", size_text(*held)));
    }
    kill(slice.a->pid(), SIGKILL);
    const bool given = ask_until_given(*slice.b);
    fmt::print("   A is killed (SIGKILL). B asks again:  {}\n",
               given ? "given" : style_.bold("refused"));
    check(given, "what a dead process held comes back by itself");
  }

  void four_programs() {
    title("Four programs, one GPU, a quarter of its time each");
    const std::vector<SharePanel> panels = run_share_demo(device_.uuid_text, style_);
    const double margin = simulated_ ? kSimulatedMargin : kMargin;
    using enum Table::Align;
    Table table({kLeft, kRight, kRight, kRight});
    table.add({"PROGRAM", "LIMIT", "NATIVE", "SOFTMIG"});
    double sums[2] = {};
    bool each_within = true;
    for (size_t i = 0; i < panels[1].tracks.size(); i++) {
      double shares[2];
      for (size_t p = 0; p < 2; p++) {
        shares[p] = panels[p].tracks[i].percent(kShareSkip, panels[p].seconds);
        sums[p] += shares[p];
      }
      const double limit = panels[1].tracks[i].limit;
      each_within = each_within && std::abs(shares[1] - limit) <= margin;
      table.add({panels[1].tracks[i].name, percent_text(limit), percent_text(shares[0]),
                 percent_text(shares[1])});
    }
    table.add({"together", percent_text(100), percent_text(sums[0]), percent_text(sums[1])});
    fmt::print("\n{}", table.text(style_, "   "));
    check(each_within, fmt::format("each has its quarter, within {:.0f} points", margin));
    plot(panels);
  }

  static std::string percent_text(double percent) { return fmt::format("{:.1f} %", percent); }

  void plot(const std::vector<SharePanel>& panels) const {
    const std::string where = simulated_ ? "a simulated GPU" : printable(device_.name);
    std::ofstream file(plot_);
    file << share_svg("Four programs share " + where, panels);
    file.close();
    if (file) {
      fmt::print("   Share over time: {}\n", printable(plot_));
    } else {
      fmt::print("   {}: cannot be written, so there is no plot\n", printable(plot_));
    }
  }

  // A process that was killed is gone when the kernel has taken it apart, not before.
  static bool ask_until_given(GpuWorker& worker) {
    for (int i = 0; i < kGivenBackPolls; i++) {
      if (worker.allocate(kPiece).ok) return true;
      usleep(kPollUs);
    }
    return false;
  }

  std::string outcome(const GpuAnswer& answer) const {
    return answer.ok ? "given" : style_.bold(fmt::format("{} ({})", answer.text, answer.code));
  }

  std::optional<uint64_t> listed(const std::vector<pid_t>& pids) const {
    uint64_t bytes = 0;
    size_t found = 0;
    for (const NvmlProcess& process :
         nvml_.processes(device_.handle).value_or(std::vector<NvmlProcess>())) {
      for (const pid_t pid : pids) {
        if (process.pid != static_cast<uint32_t>(pid) || !process.known) continue;
        bytes += process.bytes;
        found++;
      }
    }
    return found == pids.size() ? std::optional(bytes) : std::nullopt;
  }

  static void must(const GpuAnswer& answer, const char* what) {
    if (!answer.ok) throw Failure(fmt::format("{} gave {} ({})", what, answer.text, answer.code));
  }

  static GpuAnswer info(GpuWorker& worker) {
    GpuAnswer answer = worker.info();
    must(answer, "cuMemGetInfo");
    if (answer.numbers.size() != 3) throw Failure("cuMemGetInfo gave no figures");
    return answer;
  }

  int verdict() const {
    const std::string where = simulated_ ? "a simulated GPU" : printable(device_.name);
    if (failed_ == 0) {
      fmt::print("\n{}\n", style_.bold(fmt::format("All {} checks hold on {}.", checks_, where)));
      const std::string gpu = simulated_ ? fmt::format("--sim {} ", kSimulated) : "";
      fmt::print("Next:\n  {0} run {1}--memory 4G -- YOUR PROGRAM\n  {0} --help\n", own_path(),
                 gpu);
      return kExitOk;
    }
    fmt::print("\n{}\n", style_.bad(fmt::format("{} of {} checks do not hold on {}.", failed_,
                                                checks_, where)));
    return kExitFailure;
  }

  const Nvml& nvml_;
  const NvmlDevice& device_;
  const bool simulated_;
  const std::string plot_;
  const Style style_{stdout};
  int step_ = 0, checks_ = 0, failed_ = 0;
  uint64_t card_total_ = 0, context_ = 0;
};

// This program again, in a shell of simulated GPUs.
[[noreturn]] void simulate(const std::string& reason, const std::string& plot) {
  fmt::print(
      "No GPU can be used here ({}),\nso this is a simulated one: SoftMig's own model of the "
      "driver.\n",
      reason);
  std::fflush(stdout);
  const std::string binary = own_path();
  execl(binary.c_str(), "softmig", "run", "--sim", kSimulated, "--", binary.c_str(), "demo",
        "--plot", plot.c_str(), static_cast<char*>(nullptr));
  throw Failure(with_errno(binary, errno));
}

// The first that CUDA shows; null if there is none.
const NvmlDevice* first_device(const Nvml& nvml) {
  const auto visible = visible_in(std::getenv("CUDA_VISIBLE_DEVICES"), nvml.devices());
  return visible.empty() ? nullptr : visible.front();
}

// Why the real GPU will not do, empty if it will.
std::string trouble_with(const Nvml& nvml) {
  if (first_device(nvml) == nullptr) return "the NVIDIA driver shows none";
  const NvmlDevice& device = *first_device(nvml);
  const auto memory = nvml.memory(device.handle);
  if (memory && memory->total - memory->used < kLimit) {
    return fmt::format("{} has less than {} free", device.name, size_text(kLimit));
  }
  const GpuAnswer opened = GpuWorker::start()->open(device.uuid_text);
  return opened.ok ? "" : fmt::format("CUDA does not start: {}", opened.text);
}

int demo(bool force_simulated, const std::string& plot) {
  const bool simulated = std::getenv("SOFTMIG_SIM") != nullptr;
  job::Config config;
  job::load_config(job::Places{}, &config);
  if (config.source != job::Source::kNone) {
    throw Failure("this process is in a slice already", "run softmig demo outside of it");
  }
  if (force_simulated && !simulated) simulate("as you asked", plot);
  std::string reason;
  const auto nvml = Nvml::open(&reason);
  if (nvml != nullptr) reason = trouble_with(*nvml);
  if (!reason.empty() && simulated) throw Failure("the simulated GPU does not work: " + reason);
  if (!reason.empty()) simulate(reason, plot);
  return Demo(*nvml, *first_device(*nvml), simulated, plot)();
}

}  // namespace

void add_demo(CLI::App& app, int* status) {
  auto force = std::make_shared<bool>(false);
  auto plot = std::make_shared<std::string>("softmig-demo.svg");
  CLI::App* command =
      app.add_subcommand("demo", "Show on this machine what a slice does, and check it");
  command->add_flag("--simulated", *force, "Use the simulated GPU even if there is a real one");
  command->add_option("--plot", *plot, "Where the plot goes; softmig-demo.svg by default")
      ->type_name("FILE");
  command->footer(
      "Uses the first GPU, or a simulated one where none can be used, and says which. Takes half\n"
      "a minute. Exit status: 0 if everything is as promised, 1 if not.");
  command->callback([force, plot, status] { *status = demo(*force, *plot); });
}

}  // namespace softmig::cli
