// Finding, opening and making the shared region of a job (layout: abi/region.h).
#pragma once

#include <cstdint>

#include "abi/region.h"
#include "job/config.h"

namespace softmig::job {

inline constexpr int kMaxPath = 512;

struct OpenRegion {
  abi::Region* map = nullptr;
  bool shared = false;  // false: private memory, the limit holds within this process only
  char path[kMaxPath] = {};
};

// Where the region of this config lives, best first:
//   /var/run/softmig/{jobid}.region             made by root's prolog
//   $SLURM_TMPDIR/cudevshr.cache.{jobid}[.{arrayid}]   as promised, made by the first process
//   $SOFTMIG_REGION                             only with Source::kEnvironment (`softmig run`)
//   /tmp/cudevshr.cache.uid{uid}                limits from variables outside of Slurm
// Returns false if there is no usable path.
bool region_path(const Places& places, const Config& config, char (&path)[kMaxPath]);

// Maps the region, making the file (0600, own uid) where it is missing. A process of root makes
// none in the job or the folder of somebody else, who could not open it. Falls back to private
// memory when nothing can be mapped: enforcement never stops. Never blocks. The file must be a
// regular one of this uid, or of root where root's config sets the limits; a symbolic link is not
// followed, other names of the same file (hard links) do not matter.
void open_region(const Places& places, const Config& config, OpenRegion* region);

// Makes an empty region file at `path` for `uid`/`gid`, mode 0600, complete before its name
// appears. Returns 0 or an errno; EEXIST if there is one already (it is left alone).
int create_region_file(const char* path, uint32_t uid, uint32_t gid);

// 64-bit name of a GPU in the region, from its UUID; never 0.
uint64_t device_key(const policy::Uuid& uuid);

}  // namespace softmig::job
