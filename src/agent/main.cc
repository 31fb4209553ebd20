// softmigd: the agent of a node (docs/agent.md).
#include <prometheus/exposer.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/log.h"
#include "host/text.h"

namespace softmig::agent {
namespace {

volatile std::sig_atomic_t g_ended = 0;

void on_signal(int) { g_ended = 1; }

// Serves the metrics where the site wants them; the agent goes on without, and tries again.
class Server {
 public:
  void follow(const std::string& address, const std::shared_ptr<Board>& board) {
    if (address != address_) {
      exposer_.reset();
      address_ = address;
      failure_.clear();
      next_try_ = {};
    }
    if (exposer_ != nullptr || address_.empty() || Clock::now() < next_try_) return;
    next_try_ = Clock::now() + kPause;
    try {
      exposer_ = std::make_unique<prometheus::Exposer>(options());
      exposer_->RegisterCollectable(board);
      if (!failure_.empty()) say(Weight::kNotice, fmt::format("metrics on {}", address_));
      failure_.clear();
    } catch (const std::exception& error) {
      exposer_.reset();
      if (failure_ == error.what()) return;  // said once
      failure_ = error.what();
      say(Weight::kError, fmt::format("no metrics on {}: {}", address_, failure_));
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kPause{3};  // between two tries

  // Any user of the node may connect and say nothing: that occupies a thread for a second.
  std::vector<std::string> options() const {
    return {"listening_ports", address_, "num_threads", "16", "request_timeout_ms", "1000"};
  }

  std::string address_, failure_;
  Clock::time_point next_try_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

void sleep_ns(uint64_t duration) {
  const timespec time = {static_cast<time_t>(duration / 1'000'000'000),
                         static_cast<long>(duration % 1'000'000'000)};
  nanosleep(&time, nullptr);  // a signal ends it
}

void run(AgentOptions options) {
  Agent agent(std::move(options));
  Server server;
  while (g_ended == 0) {
    const uint64_t pause = agent.look();
    server.follow(agent.site().metrics_address, agent.board());
    if (g_ended == 0) sleep_ns(pause);
  }
}

// What --help shows stands in brackets where an option is left out.
void add_options(CLI::App& app, AgentOptions* options) {
  const auto add = [&app](const char* name, std::string* value, const char* type,
                          const char* text) {
    app.add_option(name, *value, text)->type_name(type)->capture_default_str();
  };
  add("--config", &options->site_config, "FILE", "What the site decides");
  add("--nvml", &options->nvml, "FILE", "The driver's management library");
  add("--cgroups", &options->cgroups, "DIR", "Where cgroups of version 2 are mounted");
  add("--devices", &options->devices, "PATH", "How the names of the driver's device files begin");
  app.set_version_flag("--version", "softmigd " + options->version);
}

int main_of(int argc, char** argv) {
  AgentOptions options;
  options.version = SOFTMIG_VERSION;
  CLI::App app("Measures what the jobs of this node use of its GPUs, and acts on who uses more",
               "softmigd");
  add_options(app, &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and the like
    fmt::print(stderr, "softmigd: {}\n  softmigd --help tells more\n",
               host::printable(error.what()));
    return 2;
  }
  if (geteuid() != 0) {
    fmt::print(stderr, "softmigd: must be started by root\n");
    return 1;
  }
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);  // files are read again when they change
  run(std::move(options));
  // Threads that wait for the driver may never end.
  std::fflush(nullptr);
  _exit(0);
}

}  // namespace
}  // namespace softmig::agent

int main(int argc, char** argv) { return softmig::agent::main_of(argc, argv); }
