// What the driver holds for a slice beyond the ledger (code of modules, streams, programs that the
// library cannot see), read through NVML while the slice runs and published in its extra page.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "abi/region.h"
#include "cli/nvml.h"
#include "job/region_view.h"
#include "policy/beyond.h"

namespace softmig::cli {

class Sampler {
 public:
  // Watches the slice with this region, whose first process is `root` and whose processes carry
  // `mark` in their environment. The thread starts at once; NVML is called from it alone.
  Sampler(std::string region, pid_t root, std::string mark, std::unique_ptr<Nvml> nvml);
  // Does not wait for a driver that hangs.
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

 private:
  struct Work;
  std::shared_ptr<Work> work_;
};

// One device's figures, compared. Pure, for tests.
struct DriverFigure {
  uint32_t pid;
  uint64_t bytes;
};
// What the driver says of these processes, and the ledger of them and of the memory that they
// exported. `index` is the device's place in the region.
policy::BeyondLook look_beyond(const std::vector<DriverFigure>& driver,
                               const std::vector<job::ViewedProcess>& ledger,
                               const job::RegionView& region, int index);

}  // namespace softmig::cli
