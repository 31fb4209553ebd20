// What a slice's use says about the next one to ask for: arithmetic and words.
#pragma once

#include <string>

#include "cli/job_record.h"

namespace softmig::cli {

// "peaked at 5.1 GiB of 12.0 GiB and never waited: ask for l40s.8". `site_shards` is how many
// shards a GPU has here where the record does not tell; 0: not known.
std::string advice(const DeviceRecord& device, bool of_job, uint64_t length_ns,
                   uint64_t site_shards);

// How Slurm calls this GPU most probably: "l40s" of "NVIDIA L40S", "a100" of
// "NVIDIA A100-SXM4-80GB", empty if the name does not tell.
std::string type_of(const std::string& name);

// "5.1 GiB", one decimal.
std::string short_size(uint64_t bytes);

}  // namespace softmig::cli
