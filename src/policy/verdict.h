// The agent's judgement: what the driver holds for whom, beside what root allowed. Facts and the
// time come in, verdicts come out; nothing is asked, nothing is done. One object lives as long as
// the agent, since a verdict needs more than one look.
//
// A suspicion becomes a verdict when two looks in a row show it (a single one may fall between a
// free and its entry in the ledger, or on a process that is just ending), some only after longer:
// see kPatienceNs in verdict.cc.
#pragma once

#include <cstdint>
#include <span>

#include "abi/region.h"
#include "policy/beyond.h"

namespace softmig::policy {

// The names are those of softmig.conf, of the metrics' label and of the logs: verdict.cc.
enum class VerdictKind : uint8_t {
  kOverMemory,   // a job holds more of a GPU than its limit and the tolerance
  kNoLibrary,    // a GPU process of a sliced job is in no ledger
  kStranger,     // a GPU process on a sliced GPU that no job of its own may use
  kLedger,       // a job's ledger is broken, or says less than the driver
  kOverCompute,  // a job's GPU time of 30 s is above its limit and the tolerance
  kOrphan,       // memory of a process that is gone, or whose job has ended
};
inline constexpr int kVerdictKinds = 6;
const char* verdict_name(VerdictKind kind);
const char* verdict_help(VerdictKind kind);

inline constexpr uint64_t kComputeWindowNs = 30'000'000'000;
inline constexpr uint64_t kDefaultMemoryTolerance = uint64_t{512} << 20;
inline constexpr uint64_t kDefaultComputeTolerance = 10;

// One process on one device, as the driver lists it.
struct GpuProcess {
  uint32_t pid = 0;
  uint32_t uid = 0;
  uint64_t start_ticks = 0;  // 0: not known
  uint64_t job = 0;          // 0: none
  uint32_t device = 0;       // index of the span of devices
  bool alive = false;        // it is there and runs
  bool job_ended = false;    // the job had a slice here, and has none any more
  bool bytes_known = false;
  uint64_t bytes = 0;
  bool no_config = false;  // it is a job's for which there is no config on the node
  bool in_ledger = false;  // it has a slot of its own in its job's region
  uint64_t charged = 0;    // bytes of that slot
  uint64_t ahead = 0;      // of them: reserved ahead for pools
  uint64_t busy_ns = 0;    // GPU time since the last sample of the device
};

// What a job may have of one device, and what its region says.
struct SliceOfGpu {
  uint64_t job = 0;
  uint32_t device = 0;
  uint64_t memory_limit = 0;  // bytes, 0: none
  uint64_t sm_limit = 0;      // percent, 0: none
  bool ledger_known = false;  // root made a region and it could be read
  bool ledger_broken = false;
  bool ledger_moving = false;  // processes were charged or relieved while the driver was asked
  uint64_t charged = 0;        // bytes of all its processes and objects: the larger of two looks
};

struct JudgedDevice {
  bool listed = false;     // the driver told which processes use it
  bool sliced = false;     // some job's config names it
  uint64_t sample_ns = 0;  // GPU times of the processes are of so much time; 0: there are none
  bool deserted = false;   // sliced for jobs alone that have no process: an epilog may have failed
};

struct Tolerance {
  uint64_t memory = kDefaultMemoryTolerance;    // bytes, for each process up to the fourth
  uint64_t compute = kDefaultComputeTolerance;  // percentage points
};

struct Verdict {
  uint64_t id = 0;  // the same as long as it lasts
  VerdictKind kind = VerdictKind::kOverMemory;
  uint64_t job = 0;
  uint32_t device = 0;
  // The offending process: of a verdict on a job, the one that explains most of it.
  uint32_t pid = 0;
  uint32_t uid = 0;
  uint64_t start_ticks = 0;
  uint64_t amount = 0, limit = 0;  // bytes, with kOverCompute ns of kComputeWindowNs
  uint64_t since_ns = 0;
};

// What driver and ledger say of a job on a device. `exported` is what is charged to objects instead
// of processes.
BeyondLook look_beyond(std::span<const GpuProcess> processes, uint64_t job, uint32_t device,
                       uint64_t exported);

class Judge {
 public:
  static constexpr uint32_t kMostSuspicions = 1024, kMostWindows = 512;

  // Returns how many verdicts were written to `out`.
  int look(uint64_t now_ns, std::span<const GpuProcess> processes,
           std::span<const SliceOfGpu> slices, std::span<const JudgedDevice> devices,
           const Tolerance& tolerance, std::span<Verdict> out);
  // The last look raised a suspicion that one more look would decide.
  bool undecided() const { return undecided_; }
  // GPU time of a job on a device within the last 30 s, in ns.
  uint64_t used_within_window(uint64_t now_ns, uint64_t job, uint32_t device) const;

 private:
  static constexpr int kBuckets = 30;
  struct Suspicion {
    bool there = false, seen = false;
    uint32_t looks = 0;
    uint64_t last_ns = 0;
    Verdict verdict;
  };
  struct Window {
    uint64_t job = 0;
    uint32_t device = 0;
    uint64_t last_second = 0;
    uint64_t second[kBuckets] = {};  // which second a bucket holds
    uint64_t ns[kBuckets] = {};
  };
  struct Facts;

  void judge_process(const Facts& facts, const GpuProcess& process);
  void judge_slice(const Facts& facts, const SliceOfGpu& slice);
  void judge_compute(const Facts& facts, const SliceOfGpu& slice);
  void suspect(const Facts& facts, const Verdict& verdict, bool of_process);
  void add_time(uint64_t now_ns, uint64_t job, uint32_t device, uint64_t ns);
  int decide(const Facts& facts, std::span<Verdict> out);
  Window* window_of(uint64_t now_ns, uint64_t job, uint32_t device);

  bool undecided_ = false, overflowed_ = false;
  uint64_t next_id_ = 1;
  Suspicion suspicion_[kMostSuspicions];
  Window window_[kMostWindows];
};

}  // namespace softmig::policy
