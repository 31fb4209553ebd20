// softmig top: the GPUs and slices of this node, live.
#include <fmt/core.h>
#include <ncurses.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <thread>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/node_view.h"
#include "cli/output.h"
#include "cli/top_screen.h"

namespace softmig::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kEscape = 27;

struct Options {
  double interval = 1;
  int count = 0;  // 0: until it is ended
  bool json = false;
};

std::string clock_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  char text[16] = {};
  localtime_r(&now, &parts);
  std::strftime(text, sizeof text, "%H:%M:%S", &parts);
  return text;
}

// The terminal as ncurses has it, given back at the end.
class Terminal {
 public:
  Terminal() : screen_(newterm(nullptr, stdout, stdin)) {
    if (screen_ == nullptr) {
      const char* term = std::getenv("TERM");
      throw Failure(fmt::format("this terminal (TERM={}) is not known here", term ? term : ""),
                    "try TERM=xterm softmig top, or softmig top --json");
    }
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    set_escdelay(25);
    curs_set(0);
    const char* no_color = std::getenv("NO_COLOR");
    if ((no_color == nullptr || *no_color == '\0') && has_colors()) choose_colors();
  }
  ~Terminal() {
    endwin();
    delscreen(screen_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void show(const std::vector<ScreenLine>& lines) const {
    erase();
    for (size_t y = 0; y < lines.size(); y++) {
      move(static_cast<int>(y), 0);
      for (const Span& span : lines[y]) {
        attrset(attribute(span.ink));
        addstr(span.text.c_str());
      }
    }
    attrset(A_NORMAL);
    refresh();
  }

 private:
  void choose_colors() {
    start_color();
    use_default_colors();
    init_pair(1, COLOR_GREEN, -1);
    init_pair(2, COLOR_YELLOW, -1);
    init_pair(3, COLOR_RED, -1);
    colors_ = true;
  }

  attr_t attribute(Ink ink) const {
    switch (ink) {
      case Ink::kPlain:
        return A_NORMAL;
      case Ink::kBold:
        return A_BOLD;
      case Ink::kDim:
        return A_DIM;
      case Ink::kGood:
        return colors_ ? static_cast<attr_t>(COLOR_PAIR(1)) : A_NORMAL;
      case Ink::kWarn:
        return colors_ ? static_cast<attr_t>(COLOR_PAIR(2)) : A_BOLD;
      case Ink::kBad:
        return colors_ ? static_cast<attr_t>(COLOR_PAIR(3)) : A_REVERSE;
    }
    return A_NORMAL;
  }

  SCREEN* screen_;
  bool colors_ = false;
};

// Shows the two looks, and waits for keys until the next one is due. False: it is to end.
bool interact(const Terminal& terminal, const NodeView& before, const NodeView& now,
              Clock::time_point until, int* first) {
  while (true) {
    terminal.show(top_screen(before, now, COLS, LINES, *first, clock_text()));
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    if (left.count() <= 0) return true;
    timeout(static_cast<int>(left.count()));
    const int page = std::max(1, LINES / 2);
    switch (getch()) {
      case 'q':
      case 'Q':
      case kEscape:
        return false;
      case KEY_UP:
        *first -= 1;
        break;
      case KEY_DOWN:
        *first += 1;
        break;
      case KEY_PPAGE:
        *first -= page;
        break;
      case KEY_NPAGE:
        *first += page;
        break;
      default:  // KEY_RESIZE among them: what is shown is made anew
        break;
    }
    int rows = 0;
    for (const SeenSlice& slice : now.slices) rows += static_cast<int>(slice.devices.size());
    *first = std::clamp(*first, 0, std::max(0, rows - 1));
  }
}

void live(const NodeWatch& watch, const Options& options) {
  if (isatty(STDOUT_FILENO) != 1 || isatty(STDIN_FILENO) != 1) {
    throw Failure("standard output is no terminal", "softmig top --json prints lines instead");
  }
  const Terminal terminal;
  const std::chrono::duration<double> interval(options.interval);
  int first = 0;
  NodeView before = watch.look(), now = before;
  // The first figures of GPU time soon, the others at leisure.
  auto until = Clock::now() + std::chrono::milliseconds(200);
  for (int shown = 0; interact(terminal, before, now, until, &first); shown++) {
    if (options.count != 0 && shown >= options.count) return;
    before = std::move(now);
    now = watch.look();
    until = Clock::now() + std::chrono::duration_cast<Clock::duration>(interval);
  }
}

void print_samples(const NodeWatch& watch, const Options& options) {
  NodeView before = watch.look(), now = before;
  for (int printed = 0; options.count == 0 || printed < options.count; printed++) {
    if (printed > 0) {
      std::this_thread::sleep_for(std::chrono::duration<double>(options.interval));
      before = std::move(now);
      now = watch.look();
    }
    const std::string line =
        sample_json(before, now).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    fmt::print("{}\n", line);
    if (std::fflush(stdout) != 0) return;
  }
}

constexpr const char* kFooter =
    R"(Keys: q ends it, arrows and page keys move through the slices.
A bar of a slice is full at the slice's limit. WAITED, in wide terminals, is how long its launches
were held back, of the time between two looks. Root sees all slices, anybody else his own.
With --json every look is one line; rates are those since the line before, null in the first.)";

}  // namespace

void add_top(CLI::App& app, int* status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("top", "Watch this node's GPUs and slices, live");
  // Without the descriptions of the ranges, which CLI11 puts behind the names of the values.
  command
      ->add_option("-i,--interval", options->interval,
                   "Seconds between two looks, 0.1 to 3600; 1 by default")
      ->check(CLI::Range(0.1, 3600.0).description(""))
      ->type_name("SECONDS");
  command->add_option("-n,--count", options->count, "End after so many looks")
      ->check(CLI::Range(1, 1'000'000).description(""))
      ->type_name("N");
  command->add_flag("--json", options->json, "Print each look as a line of JSON");
  command->footer(kFooter);
  command->callback([options, status] {
    const NodeWatch watch;
    options->json ? print_samples(watch, *options) : live(watch, *options);
    *status = kExitOk;
  });
}

}  // namespace softmig::cli
