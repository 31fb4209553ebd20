// One look at a region, with as many processes as it has.
#pragma once

#include <string>
#include <vector>

#include "job/region_view.h"

namespace softmig::cli {

struct RegionLook {
  job::ViewStatus status = job::ViewStatus::kMissing;
  job::RegionView view;
  std::vector<job::ViewedProcess> processes;

  // Place of the device with this key, -1: none.
  int index_of(uint64_t key) const;
};

// As job::view_region. The file may have been planted by anybody.
RegionLook look_at_region(const std::string& path, const char* proc_root = "/proc");

// What a status means, empty for kOk.
const char* region_trouble(job::ViewStatus status);

// Names for people; control bytes are taken out.
std::string process_name(uint32_t pid);
std::string user_name(uint32_t uid);

// "12.5 s", "3 min 20 s", "5 h 12 min".
std::string duration_text(uint64_t ns);

}  // namespace softmig::cli
