// /etc/softmig/softmig.conf: host/site_config.h, under the names that this folder uses.
#pragma once

#include "host/site_config.h"

namespace softmig::cli {

using host::kDefaultShards;
using host::kMaxShards;
using host::kSiteConfigFile;
using host::OnFailure;
using host::parse_site_config;
using host::read_site_config;
using host::site_keys;
using host::SiteConfig;
using host::SiteKey;
using host::SiteProblem;

}  // namespace softmig::cli
