// The jobs of this node that have a config in /var/run/softmig, and their regions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "host/region_look.h"
#include "job/config.h"
#include "policy/settings.h"

namespace softmig::agent {

struct NodeJob {
  uint64_t id = 0;
  std::string file;  // name of its config
  bool usable = false;
  policy::Settings settings;
  uint64_t stamp[3] = {};  // of the config: inode, size, change time

  bool sliced() const { return usable && settings.limits_anything(); }
  // Place of a GPU in the job's list: as policy::device_index. `named`: the list has it.
  int place_of(uint64_t device_key, bool* named) const;
};

class JobTable {
 public:
  explicit JobTable(job::Places places) : places_(places) {}

  // Reads what is new or has changed. What cannot be read stays as it was.
  void refresh(uint64_t now_ns);
  // Why the folder of the configs could not be read; empty: it could.
  const std::string& trouble() const { return trouble_; }
  const std::map<uint64_t, NodeJob>& jobs() const { return jobs_; }
  const NodeJob* find(uint64_t id) const;
  // The job is this user's, as root's config says.
  bool is_of(uint64_t id, uint32_t uid) const;
  // It had a slice within the last ten minutes and has no config any more.
  bool has_ended(uint64_t id) const { return ended_.contains(id); }
  std::string region_path(uint64_t id) const;

 private:
  void take(const std::string& file, std::map<uint64_t, NodeJob>* found) const;

  job::Places places_;
  std::string trouble_;
  std::map<uint64_t, NodeJob> jobs_;
  std::map<uint64_t, uint64_t> ended_;  // when, in ns
};

}  // namespace softmig::agent
