// One look at a region, with as many processes as it has.
#pragma once

#include <string>
#include <vector>

#include "job/region_view.h"

namespace softmig::host {

struct RegionLook {
  job::ViewStatus status = job::ViewStatus::kMissing;
  job::RegionView view;
  std::vector<job::ViewedProcess> processes;

  // Place of the device with this key, -1: none.
  int index_of(uint64_t key) const;
};

// As job::view_region. The file may have been planted by anybody.
RegionLook look_at_region(const std::string& path, const char* proc_root = "/proc",
                          const job::SlotFilter& filter = {});

}  // namespace softmig::host
