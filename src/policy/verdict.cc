#include "policy/verdict.h"

namespace softmig::policy {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMostProcessesForTolerance = 4;
// A suspicion that was not seen for so long, because the driver told nothing, begins anew.
constexpr uint64_t kMemoryNs = 10 * kSecond;

struct KindRow {
  const char* name;
  uint64_t patience_ns;  // from the first look that showed it
  const char* help;
};
constexpr KindRow kKinds[kVerdictKinds] = {
    {"over_memory", 0, "the job holds more GPU memory than its limit and the tolerance"},
    {"no_library", 0, "a GPU process of a sliced job is in no ledger"},
    {"stranger", 0, "a process uses a sliced GPU that none of its jobs may use"},
    {"ledger", kSecond / 2, "the job's ledger is broken or says less than the driver"},
    {"over_compute", 0, "the job's GPU time of 30 s is above its limit and the tolerance"},
    {"orphan", 10 * kSecond, "GPU memory of a process that is gone or whose job has ended"},
};

const KindRow& row_of(VerdictKind kind) { return kKinds[static_cast<int>(kind)]; }

uint64_t excess(const GpuProcess& process) {
  return process.bytes > process.charged ? process.bytes - process.charged : 0;
}

}  // namespace

struct Judge::Facts {
  uint64_t now_ns;
  std::span<const GpuProcess> processes;
  std::span<const SliceOfGpu> slices;
  std::span<const JudgedDevice> devices;
  Tolerance tolerance;

  bool listed(uint32_t device) const { return device < devices.size() && devices[device].listed; }
  const SliceOfGpu* slice_of(uint64_t job, uint32_t device) const {
    for (const SliceOfGpu& slice : slices) {
      if (slice.job == job && slice.device == device) return &slice;
    }
    return nullptr;
  }
};

const char* verdict_name(VerdictKind kind) { return row_of(kind).name; }
const char* verdict_help(VerdictKind kind) { return row_of(kind).help; }

BeyondLook look_beyond(std::span<const GpuProcess> processes, uint64_t job, uint32_t device,
                       uint64_t exported) {
  BeyondLook look;
  look.charged = exported;
  for (const GpuProcess& process : processes) {
    if (process.job != job || process.device != device || !process.bytes_known) continue;
    look.held += process.bytes;
    look.charged += process.charged;
    look.ahead += process.ahead;
    look.processes++;
  }
  return look;
}

int Judge::look(uint64_t now_ns, std::span<const GpuProcess> processes,
                std::span<const SliceOfGpu> slices, std::span<const JudgedDevice> devices,
                const Tolerance& tolerance, std::span<Verdict> out) {
  const Facts facts{now_ns, processes, slices, devices, tolerance};
  for (Suspicion& suspicion : suspicion_) suspicion.seen = false;
  for (const GpuProcess& process : processes) {
    if (facts.listed(process.device)) judge_process(facts, process);
  }
  for (const SliceOfGpu& slice : slices) {
    if (!facts.listed(slice.device)) continue;
    judge_slice(facts, slice);
    judge_compute(facts, slice);
  }
  return decide(facts, out);
}

// What can be said of a process alone. Root's outside of jobs are the system's.
void Judge::judge_process(const Facts& facts, const GpuProcess& process) {
  if (process.job == 0 && process.uid == 0 && process.alive) return;
  Verdict verdict{.job = process.job,
                  .device = process.device,
                  .pid = process.pid,
                  .uid = process.uid,
                  .start_ticks = process.start_ticks,
                  .amount = process.bytes};
  const SliceOfGpu* slice = facts.slice_of(process.job, process.device);
  if (!process.alive || (process.job_ended && slice == nullptr)) {
    // Of one that nobody ever saw alive there is nobody to name.
    const bool counts = process.job != 0 && process.bytes > 0;
    verdict.kind = VerdictKind::kOrphan;
    if (counts) suspect(facts, verdict, true);
    return;
  }
  if (slice != nullptr) {
    verdict.kind = VerdictKind::kNoLibrary;
    verdict.limit = slice->memory_limit;
    if (slice->ledger_known && !process.in_ledger) suspect(facts, verdict, true);
    return;
  }
  // Slurm gives a whole GPU to a job whose slices are over, be their configs still there.
  const JudgedDevice& device = facts.devices[process.device];
  if (process.no_config && device.deserted) return;
  verdict.kind = VerdictKind::kStranger;
  if (device.sliced) suspect(facts, verdict, true);
}

void Judge::judge_slice(const Facts& facts, const SliceOfGpu& slice) {
  uint64_t held = 0, entered = 0, count = 0;
  const GpuProcess *worst = nullptr, *worst_entered = nullptr;
  for (const GpuProcess& process : facts.processes) {
    if (process.job != slice.job || process.device != slice.device) continue;
    if (!process.alive || !process.bytes_known) continue;
    count++;
    held += process.bytes;
    if (worst == nullptr || excess(process) > excess(*worst)) worst = &process;
    if (!process.in_ledger) continue;
    entered += process.bytes;
    if (worst_entered == nullptr || excess(process) > excess(*worst_entered)) {
      worst_entered = &process;
    }
  }
  if (count == 0) return;
  const uint64_t scale = count < kMostProcessesForTolerance ? count : kMostProcessesForTolerance;
  const uint64_t allowance = facts.tolerance.memory * scale;
  const auto verdict = [&](VerdictKind kind, const GpuProcess& who, uint64_t amount,
                           uint64_t limit) {
    suspect(facts,
            {.kind = kind,
             .job = slice.job,
             .device = slice.device,
             .pid = who.pid,
             .uid = who.uid,
             .start_ticks = who.start_ticks,
             .amount = amount,
             .limit = limit},
            false);
  };
  if (slice.memory_limit != 0 && held > slice.memory_limit + allowance) {
    verdict(VerdictKind::kOverMemory, *worst, held, slice.memory_limit);
  }
  if (slice.ledger_broken) {
    verdict(VerdictKind::kLedger, *worst, held, 0);
  } else if (slice.ledger_known && !slice.ledger_moving && worst_entered != nullptr &&
             entered > slice.charged + allowance) {
    verdict(VerdictKind::kLedger, *worst_entered, entered, slice.charged);
  }
}

// GPU time is counted per process by the driver. Where the contexts of several took turns within
// one sample, their times may add up to more than there was: then each had its part of it.
void Judge::judge_compute(const Facts& facts, const SliceOfGpu& slice) {
  if (slice.sm_limit == 0) return;
  const uint64_t sample = facts.devices[slice.device].sample_ns;
  uint64_t all = 0, own = 0;
  const GpuProcess* busiest = nullptr;
  for (const GpuProcess& process : facts.processes) {
    if (process.device != slice.device) continue;
    all += process.busy_ns;
    if (process.job != slice.job) continue;
    own += process.busy_ns;
    const bool better =
        busiest == nullptr || (busiest->in_ledger && !process.in_ledger) ||
        (busiest->in_ledger == process.in_ledger && process.busy_ns > busiest->busy_ns);
    if (better && process.alive && (process.busy_ns > 0 || busiest == nullptr)) busiest = &process;
  }
  if (sample != 0 && own != 0) {
    const uint64_t fair = all > sample ? own / 1000 * (sample * 1000 / all) : own;
    add_time(facts.now_ns, slice.job, slice.device, fair);
  }
  const uint64_t used = used_within_window(facts.now_ns, slice.job, slice.device);
  const uint64_t percent = slice.sm_limit + facts.tolerance.compute;
  if (busiest == nullptr || percent >= 100 || used <= kComputeWindowNs / 100 * percent) return;
  suspect(facts,
          {.kind = VerdictKind::kOverCompute,
           .job = slice.job,
           .device = slice.device,
           .pid = busiest->pid,
           .uid = busiest->uid,
           .start_ticks = busiest->start_ticks,
           .amount = used,
           .limit = kComputeWindowNs / 100 * slice.sm_limit},
          false);
}

void Judge::suspect(const Facts& facts, const Verdict& verdict, bool of_process) {
  Suspicion* room = nullptr;
  for (Suspicion& known : suspicion_) {
    if (!known.there) {
      if (room == nullptr) room = &known;
      continue;
    }
    Verdict& held = known.verdict;
    if (held.kind != verdict.kind || held.job != verdict.job || held.device != verdict.device) {
      continue;
    }
    if (of_process && (held.pid != verdict.pid || held.start_ticks != verdict.start_ticks)) {
      continue;
    }
    const uint64_t id = held.id, since = held.since_ns;
    held = verdict;
    held.id = id;
    held.since_ns = since;
    known.looks++;
    known.seen = true;
    known.last_ns = facts.now_ns;
    return;
  }
  // More than there is room for are judged once others are gone.
  overflowed_ = overflowed_ || room == nullptr;
  if (room == nullptr) return;
  *room = {.there = true, .seen = true, .looks = 1, .last_ns = facts.now_ns, .verdict = verdict};
  room->verdict.id = next_id_++;
  room->verdict.since_ns = facts.now_ns;
}

int Judge::decide(const Facts& facts, std::span<Verdict> out) {
  size_t count = 0;
  undecided_ = overflowed_;
  overflowed_ = false;
  for (Suspicion& known : suspicion_) {
    if (!known.there) continue;
    if (!known.seen) {
      const bool told = facts.listed(known.verdict.device);
      if (told || facts.now_ns - known.last_ns > kMemoryNs) known.there = false;
      continue;
    }
    const uint64_t patience = row_of(known.verdict.kind).patience_ns;
    if (known.looks < 2 || facts.now_ns - known.verdict.since_ns < patience) {
      undecided_ = undecided_ || patience < kSecond;
      continue;
    }
    if (count < out.size()) out[count++] = known.verdict;
  }
  return static_cast<int>(count);
}

Judge::Window* Judge::window_of(uint64_t now_ns, uint64_t job, uint32_t device) {
  Window* oldest = &window_[0];
  for (Window& window : window_) {
    if (window.job == job && window.device == device) return &window;
    if (window.last_second < oldest->last_second) oldest = &window;
  }
  *oldest = {};
  oldest->job = job;
  oldest->device = device;
  oldest->last_second = now_ns / kSecond;
  return oldest;
}

void Judge::add_time(uint64_t now_ns, uint64_t job, uint32_t device, uint64_t ns) {
  Window* window = window_of(now_ns, job, device);
  const uint64_t second = now_ns / kSecond;
  const size_t at = second % kBuckets;
  if (window->second[at] != second) window->ns[at] = 0;
  window->second[at] = second;
  window->ns[at] += ns;
  window->last_second = second;
}

uint64_t Judge::used_within_window(uint64_t now_ns, uint64_t job, uint32_t device) const {
  const uint64_t second = now_ns / kSecond;
  uint64_t sum = 0;
  for (const Window& window : window_) {
    if (window.job != job || window.device != device || job == 0) continue;
    for (int i = 0; i < kBuckets; i++) {
      const bool within = window.second[i] + kBuckets > second && window.second[i] <= second;
      if (within) sum += window.ns[i];
    }
  }
  return sum;
}

}  // namespace softmig::policy
