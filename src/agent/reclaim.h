// Slots of dead processes in other pid namespaces (containers), which the library cannot judge.
//
// The region belongs to the job's user, who can cut or forge it at any time. So the agent itself
// never maps it: a child does that, with the rights of the user, and may die of it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "host/region_look.h"

namespace softmig::agent {

struct DeadSlot {
  uint32_t slot = 0;
  uint64_t owner = 0;  // abi::PackedOwner
};

// Finds slots of other pid namespaces whose process is gone, by two looks at all of /proc.
class SlotJudge {
 public:
  explicit SlotJudge(std::string proc) : proc_(std::move(proc)) {}
  // Slots that were dead at this call and the one before, at least `kApartNs` earlier.
  std::vector<DeadSlot> dead(const std::string& region, const host::RegionLook& look,
                             uint64_t now_ns);
  // The region is gone.
  void forget(const std::string& region);
  static constexpr uint64_t kApartNs = 5'000'000'000;

 private:
  struct Inner {
    uint64_t pid_namespace;
    uint32_t pid;
    uint64_t start_ticks;
    auto operator<=>(const Inner&) const = default;
  };
  void scan(uint64_t now_ns);
  bool lives(const job::ViewedProcess& process) const;

  std::string proc_;
  uint64_t scanned_ns_ = 0;
  std::set<Inner> living_;
  std::set<uint64_t> namespaces_;              // those that a process was ever seen in
  using Slot = std::pair<uint32_t, uint64_t>;  // and its owner
  std::map<std::string, std::map<Slot, uint64_t>> suspects_;  // by region, since when
};

// Gives back what these slots hold, in a child with the rights of the region's owner. Returns its
// pid, to be reaped by the caller; 0 if it could not be started.
int reclaim_slots(const std::string& region, const std::vector<DeadSlot>& slots);

}  // namespace softmig::agent
