#include "cli/share_demo.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "cli/failure.h"
#include "cli/install.h"
#include "cli/share_worker.h"
#include "sys/clock.h"

namespace softmig::cli {
namespace {

constexpr const char* kNames[kSharePrograms] = {"A", "B", "C", "D"};
constexpr int kQuarter = 100 / kSharePrograms;
constexpr uint64_t kHeadStartNs = 300'000'000;
constexpr int kFrameMs = 250;
constexpr double kStep = 0.25;
constexpr int kLeastWidth = 72;
constexpr int kMostPatienceMs = 20'000;

int terminal_width() {
  winsize size = {};
  const bool told = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return told ? size.ws_col : 80;
}

// Lines that are drawn over must not wrap.
bool is_live() {
  const char* term = std::getenv("TERM");
  return terminal_width() >= kLeastWidth && isatty(STDOUT_FILENO) == 1 && term != nullptr &&
         std::strcmp(term, "dumb") != 0;
}

bool speaks_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    return std::strstr(value, "UTF-8") != nullptr || std::strstr(value, "utf8") != nullptr;
  }
  return false;
}

// The four programs, from their start to their end.
class Part {
 public:
  Part(const std::string& uuid, bool sliced, double seconds) : sliced_(sliced), seconds_(seconds) {
    for (int i = 0; i < kSharePrograms; i++) {
      std::vector<std::string> before;
      if (sliced) {
        before = {own_path(), "run",
                  "--sm",     std::to_string(kQuarter),
                  "--slots",  fmt::format("{}/{}", i, kSharePrograms),
                  "--"};
      }
      workers_.push_back(std::make_unique<ShareWorker>(before));
    }
    for (auto& worker : workers_) worker->open(uuid);
  }

  SharePanel operator()(const WorkUnit& unit) {
    start_ns_ = static_cast<int64_t>(sys::monotonic_ns() + kHeadStartNs);
    for (auto& worker : workers_) worker->begin(unit, start_ns_, seconds_);
    const bool live = is_live();
    while (wait()) {
      if (live) {
        show_chart();
      } else {
        show_seconds();
      }
    }
    live ? show_chart() : show_seconds();
    return panel();
  }

 private:
  double now() const {
    const auto at = static_cast<int64_t>(sys::monotonic_ns());
    return std::min(seconds_, static_cast<double>(at - start_ns_) / 1e9);
  }

  // Reads until the next frame is due. False when all are done.
  bool wait() {
    const uint64_t until = sys::monotonic_ns() + uint64_t{kFrameMs} * 1'000'000;
    while (true) {
      std::vector<pollfd> list;
      std::vector<ShareWorker*> owners;
      for (size_t i = 0; i < workers_.size(); i++) {
        if (done_[i]) continue;
        list.push_back({workers_[i]->fd(), POLLIN, 0});
        owners.push_back(workers_[i].get());
      }
      const auto left = static_cast<int64_t>(until - sys::monotonic_ns()) / 1'000'000;
      if (list.empty()) return false;
      if (left <= 0) break;
      if (poll(list.data(), list.size(), static_cast<int>(left)) <= 0) continue;
      for (size_t i = 0; i < list.size(); i++) {
        if (list[i].revents != 0 && !owners[i]->take()) finish(owners[i]);
      }
    }
    if (now() >= seconds_ && ++late_ * kFrameMs > kMostPatienceMs) {
      throw Failure("a program that shares the GPU does not come to its end");
    }
    return true;
  }

  void finish(const ShareWorker* worker) {
    for (size_t i = 0; i < workers_.size(); i++) done_[i] = done_[i] || workers_[i].get() == worker;
  }

  SharePanel panel() const {
    SharePanel panel;
    panel.seconds = seconds_;
    panel.title = sliced_ ? fmt::format("With SoftMig: four times softmig run --sm {}", kQuarter)
                          : "Native: the hardware takes turns";
    for (size_t i = 0; i < workers_.size(); i++) {
      panel.tracks.push_back(
          {kNames[i], sliced_ ? double{kQuarter} : 0, start_ns_, workers_[i]->reports()});
    }
    return panel;
  }

  void show_chart() {
    const SharePanel seen = panel();
    if (drawn_) fmt::print("\033[{}A", kSharePrograms);
    for (const ShareTrack& track : seen.tracks) {
      // What was done a moment ago is not all reported yet.
      const double until = std::max(0.0, std::min(now(), seconds_) - (now() < seconds_ ? 0.2 : 0));
      fmt::print("\r\033[K   {}\n",
                 chart_line(track, until, kStep, terminal_width() - 4, speaks_utf8()));
    }
    std::fflush(stdout);
    drawn_ = true;
  }

  void show_seconds() {
    const SharePanel seen = panel();
    const double reported = now() < seconds_ ? now() - 0.2 : seconds_;
    for (; shown_ + 1 <= reported; shown_++) {
      std::string text = fmt::format("   {:>2} s", shown_ + 1);
      double all = 0;
      for (const ShareTrack& track : seen.tracks) {
        const double share = track.percent(shown_, shown_ + 1);
        all += share;
        text += fmt::format("   {} {:4.1f} %", track.name, share);
      }
      fmt::print("{}   together {:5.1f} %\n", text, all);
      std::fflush(stdout);
    }
  }

  const bool sliced_;
  const double seconds_;
  int64_t start_ns_ = 0;
  std::vector<std::unique_ptr<ShareWorker>> workers_;
  bool done_[kSharePrograms] = {};
  bool drawn_ = false;
  int shown_ = 0, late_ = 0;
};

WorkUnit calibrated(const std::string& uuid) {
  ShareWorker alone({});
  alone.open(uuid);
  return alone.calibrate();
}

}  // namespace

std::vector<SharePanel> run_share_demo(const std::string& uuid, const Style& style) {
  const WorkUnit unit = calibrated(uuid);
  fmt::print(
      "   Each always has work: kernels of {:.0f} us that do a fixed number of steps. What a "
      "program\n"
      "   gets done is its share of the GPU.\n",
      unit.ns / 1e3);
  std::vector<SharePanel> panels;
  for (const bool sliced : {false, true}) {
    fmt::print("\n   {}\n",
               sliced
                   ? style.dim(fmt::format("$ softmig run --sm {} --slots K/{} -- PROGRAM   "
                                           "(four times, {:.0f} s)",
                                           kQuarter, kSharePrograms, kSlicedSeconds))
                   : style.dim(fmt::format("$ PROGRAM   (four times, {:.0f} s)", kNativeSeconds)));
    std::fflush(stdout);
    panels.push_back(Part(uuid, sliced, sliced ? kSlicedSeconds : kNativeSeconds)(unit));
  }
  return panels;
}

}  // namespace softmig::cli
