// The subcommands. Each adds itself to the command line; when it is chosen its work is done while
// the line is parsed and *status is what the process will exit with.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

namespace softmig::cli {

// "--" and all that follows: the command of `run`, taken off the line before it is parsed.
using Rest = std::vector<std::string>;

void add_run(CLI::App& app, const Rest& rest, int* status);
void add_limits(CLI::App& app, int* status);
void add_calibrate(CLI::App& app, int* status);
void add_config(CLI::App& app, int* status);
void add_demo(CLI::App& app, int* status);
void add_job_start(CLI::App& app, int* status);
void add_job_end(CLI::App& app, int* status);
void add_gpu_worker(CLI::App& app, int* status);
void add_doctor(CLI::App& app, int* status);
void add_processes(CLI::App& app, int* status);
void add_region(CLI::App& app, int* status);
void add_report(CLI::App& app, int* status);
void add_setup(CLI::App& app, int* status);
void add_share_worker(CLI::App& app, int* status);
void add_status(CLI::App& app, int* status);
void add_top(CLI::App& app, int* status);
void add_version(CLI::App& app, int* status);

}  // namespace softmig::cli
