// softmigd: the agent of a node (docs/agent.md).
#include <prometheus/exposer.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "agent/log.h"

namespace softmig::agent {
namespace {

volatile std::sig_atomic_t g_ended = 0;

void on_signal(int) { g_ended = 1; }

// Serves the metrics where the site wants them; the agent goes on without.
class Server {
 public:
  void follow(const std::string& address, const std::shared_ptr<Board>& board) {
    if (address == address_ && (exposer_ != nullptr || address.empty() || --wait_ > 0)) return;
    wait_ = kWait;
    exposer_.reset();
    address_ = address;
    if (address.empty()) return;
    try {
      // Everybody on the node can connect and say nothing.
      exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
          "listening_ports", address, "num_threads", kThreads, "request_timeout_ms", kPatienceMs});
      exposer_->RegisterCollectable(board);
    } catch (const std::exception& error) {
      exposer_.reset();
      say(Weight::kError, fmt::format("no metrics on {}: {}", address, error.what()));
    }
  }

 private:
  static constexpr int kWait = 30;  // looks between two tries
  static constexpr const char *kThreads = "16", *kPatienceMs = "1000";
  std::string address_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int wait_ = 0;
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

int main_of(int argc, char** argv) {
  AgentOptions options;
  options.version = SOFTMIG_VERSION;
  CLI::App app("Measures what the jobs of this node use of its GPUs, and acts on who uses more");
  app.add_option("--config", options.site_config, "What the site decides");
  app.add_option("--nvml", options.nvml, "The driver's management library");
  app.add_option("--cgroups", options.cgroups, "Where cgroups of version 2 are mounted");
  app.add_option("--devices", options.devices, "How the names of the driver's device files begin");
  app.set_version_flag("--version", options.version);
  CLI11_PARSE(app, argc, argv);
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
