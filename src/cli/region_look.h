// Regions and what is in them, in words for people.
#pragma once

#include <string>

#include "host/region_look.h"

namespace softmig::cli {

using host::look_at_region;
using host::RegionLook;

// What a status means, empty for kOk.
const char* region_trouble(job::ViewStatus status);

// Names for people; control bytes are taken out.
std::string process_name(uint32_t pid);
std::string user_name(uint32_t uid);

// "12.5 s", "3 min 20 s", "5 h 12 min".
std::string duration_text(uint64_t ns);

}  // namespace softmig::cli
