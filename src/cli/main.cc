// The command line of SoftMig.
#include <fmt/core.h>

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/output.h"
#include "cli/supervise.h"

namespace softmig::cli {
namespace {

constexpr const char* kAbout =
    "SoftMig gives each job a slice of a GPU: a share of its memory and of its time.";

// `run` stands in for another program, and its caller must be able to tell their failures apart.
int status_for(bool is_run, int status) {
  return is_run ? std::max(status, kExitRunFailed) : status;
}

// What is said quotes what was typed, and files: none of that may steer a terminal.
int complain(const std::string& command, const Failure& failure) {
  fmt::print(stderr, "softmig{}{}: {}\n", command.empty() ? "" : " ", command,
             printable(failure.what()));
  if (!failure.hint().empty()) fmt::print(stderr, "  {}\n", printable(failure.hint()));
  return status_for(command == "run", failure.status());
}

// "limits", "config check".
std::string chosen(const CLI::App& app) {
  const auto commands = app.get_subcommands();
  if (commands.empty()) return "";
  const std::string below = chosen(*commands.front());
  return commands.front()->get_name() + (below.empty() ? "" : " " + below);
}

// CLI11 misses what is required before it minds what nobody knows, which may be why it is missing.
std::string fault_of(const CLI::App& app, const CLI::ParseError& error) {
  const auto unknown = app.remaining(true);
  if (dynamic_cast<const CLI::RequiredError*>(&error) == nullptr || unknown.empty()) {
    return error.what();
  }
  const bool is_option = unknown.front().starts_with('-');
  return fmt::format("no such {}: {}", is_option ? "option" : "command", unknown.front());
}

int bad_line(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help and the like
  const std::string command = chosen(app);
  return complain(command, Failure(fault_of(app, error),
                                   fmt::format("softmig {}{}--help tells more", command,
                                               command.empty() ? "" : " "),
                                   kExitUsage));
}

// Output that did not arrive (a full disk) is a failure, whatever the command thinks.
int flushed(int status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  fmt::print(stderr, "softmig: standard output: {}\n", std::strerror(errno));
  return status == kExitOk ? kExitFailure : status;
}

int main_with(std::vector<std::string> words) {
  int status = kExitOk;
  const auto dashes = std::find(words.begin(), words.end(), "--");
  const Rest rest(dashes, words.end());
  words.erase(dashes, words.end());
  CLI::App app(kAbout, "softmig");
  app.require_subcommand(1);
  app.set_version_flag("--version", "softmig " SOFTMIG_VERSION);
  app.get_formatter()->column_width(28);
  add_run(app, rest, &status);
  add_limits(app, &status);
  add_status(app, &status);
  add_top(app, &status);
  add_report(app, &status);
  add_demo(app, &status);
  add_gpu_worker(app, &status);
  add_share_worker(app, &status);
  add_processes(app, &status);
  add_region(app, &status);
  add_calibrate(app, &status);
  add_config(app, &status);
  add_setup(app, &status);
  add_doctor(app, &status);
  add_job_start(app, &status);
  add_job_end(app, &status);
  add_version(app, &status);
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return bad_line(app, error);
  } catch (const Failure& failure) {
    return complain(chosen(app), failure);
  }
  if (chosen(app) == "run") end_like(status);
  return flushed(status);
}

}  // namespace
}  // namespace softmig::cli

int main(int argc, char** argv) {
  using softmig::cli::main_with;
  try {
    return main_with(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  } catch (const std::exception& error) {
    fmt::print(stderr, "softmig: {}\n", softmig::cli::printable(error.what()));
    return softmig::cli::kExitRunFailed;
  }
}
