// The configs of jobs in /var/run/softmig, read from outside of the job.
#pragma once

#include <string>

#include "job/config.h"
#include "policy/settings.h"

namespace softmig::host {

// The config {run_dir}/{name} as the library would take it. False: *error says why it is none, or
// is empty if there is no such file.
bool read_job_config(const job::Places& places, const std::string& name, policy::Settings* settings,
                     std::string* error);

// "4711" or "4711_3" of a name such as "4711.conf", empty if it is none.
std::string job_of_config_name(const std::string& name);

}  // namespace softmig::host
