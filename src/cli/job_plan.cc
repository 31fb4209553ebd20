#include "cli/job_plan.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/bytes.h"
#include "cli/failure.h"
#include "cli/output.h"

namespace softmig::cli {
namespace {

bool all_alike(const std::vector<NodeGpu>& gpus) {
  return std::all_of(gpus.begin(), gpus.end(), [&](const NodeGpu& gpu) {
    return gpu.name == gpus.front().name && gpu.total == gpus.front().total;
  });
}

const NodeGpu& find_gpu(int index, const std::vector<int>& order,
                        const std::vector<NodeGpu>& gpus) {
  const auto place = static_cast<size_t>(index);
  if (!order.empty()) {
    if (place >= order.size()) {
      throw Failure(
          fmt::format("slurmd -G knows {} GPUs, and the job has number {}", order.size(), index));
    }
    for (const NodeGpu& gpu : gpus) {
      if (gpu.minor == order[place]) return gpu;
    }
    throw Failure(fmt::format("the driver shows no GPU /dev/nvidia{}", order[place]));
  }
  if (!all_alike(gpus)) {
    throw Failure("slurmd -G does not tell which of the node's different GPUs the job has");
  }
  if (place >= gpus.size()) {
    throw Failure(
        fmt::format("the driver shows {} GPUs, and the job has number {}", gpus.size(), index));
  }
  return gpus[place];
}

GpuSlice make_slice(const NodeGpu& gpu, const std::string& type, uint64_t shards, uint64_t of,
                    const SiteConfig& site) {
  if (shards > of) {
    throw Failure(fmt::format("{} shards of a GPU that has {}: see NUM_SHARDS_PER_GPU in {}",
                              shards, of, kSiteConfigFile));
  }
  const uint64_t reserve = site.reserve.get(type);
  if (reserve >= gpu.total) {
    throw Failure(fmt::format("MEMORY_RESERVE leaves nothing of the {} of {}", size_text(gpu.total),
                              gpu.uuid));
  }
  GpuSlice slice;
  slice.uuid = gpu.uuid;
  slice.shards = shards;
  slice.of = of;
  slice.bytes = (gpu.total - reserve) / of * shards / base::kMiB * base::kMiB;
  slice.percent = std::max<uint64_t>(1, shards * 100 / of);
  if (slice.bytes == 0) {
    throw Failure(fmt::format("1/{} of {} is less than a MiB", of, size_text(gpu.total)));
  }
  return slice;
}

std::string common_line(uint32_t uid) { return fmt::format("SOFTMIG_UID={}\n", uid); }

}  // namespace

std::vector<GpuSlice> plan_slices(const std::vector<GresItem>& items, const std::vector<int>& order,
                                  const std::vector<NodeGpu>& gpus, const SiteConfig& site) {
  std::vector<GpuSlice> slices;
  for (const GresItem& item : items) {
    if (item.name != "shard") continue;
    if (item.index.empty()) throw Failure("Slurm does not tell on which GPU the job's shards are");
    if (item.here.empty() && item.index.size() > 1) {
      throw Failure(fmt::format("{} shards on {} GPUs: Slurm does not tell how many on each",
                                item.count, item.index.size()));
    }
    for (size_t i = 0; i < item.index.size(); i++) {
      const bool told = !item.here.empty();
      const NodeGpu& gpu = find_gpu(item.index[i], order, gpus);
      slices.push_back(make_slice(gpu, item.type, told ? item.here[i] : item.count,
                                  told ? item.available[i] : site.shards.get(item.type), site));
    }
  }
  return slices;
}

std::string config_text(const std::vector<GpuSlice>& slices, uint32_t uid, const std::string& slots,
                        const SiteConfig& site) {
  std::string text = common_line(uid), names;
  uint64_t bytes = UINT64_MAX, percent = 100;
  for (const GpuSlice& slice : slices) {
    names += (names.empty() ? "" : ",") + slice.uuid;
    bytes = std::min(bytes, slice.bytes);
    percent = std::min(percent, slice.percent);
  }
  text += fmt::format("SOFTMIG_GPUS={}\n", names);
  // The general limits are those of the smallest slice: they hold for GPUs that nobody knows.
  text += fmt::format("CUDA_DEVICE_MEMORY_LIMIT={}M\n", bytes / base::kMiB);
  if (site.limit_compute) text += fmt::format("CUDA_DEVICE_SM_LIMIT={}\n", percent);
  for (size_t i = 0; i < slices.size() && slices.size() > 1; i++) {
    text += fmt::format("CUDA_DEVICE_MEMORY_LIMIT_{}={}M\n", i, slices[i].bytes / base::kMiB);
    if (site.limit_compute) {
      text += fmt::format("CUDA_DEVICE_SM_LIMIT_{}={}\n", i, slices[i].percent);
    }
  }
  if (site.limit_compute && !slots.empty()) text += fmt::format("SOFTMIG_SLOTS={}\n", slots);
  for (const std::string& line : site.job_lines) text += line + "\n";
  return text;
}

std::string closed_config_text(uint32_t uid, const std::string& why) {
  // A value that is no size closes the job, and its log quotes it.
  return common_line(uid) + fmt::format("CUDA_DEVICE_MEMORY_LIMIT=closed: {}\n", printable(why));
}

}  // namespace softmig::cli
