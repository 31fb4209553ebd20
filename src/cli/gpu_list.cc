#include "cli/gpu_list.h"

#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/failure.h"
#include "cli/nvml.h"

namespace softmig::cli {
namespace {

constexpr const char* kCacheName = "gpus";
// A card whose ECC is switched has another size after a reset, which nothing else shows.
constexpr time_t kKeptSeconds = 60;

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::vector<NodeGpu> kept_gpus(const NodeState& state, const std::string& stamp) {
  const std::string path = state.path(kCacheName);
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return {};
  const time_t age = time(nullptr) - status.st_mtime;
  if (age < 0 || age > kKeptSeconds) return {};
  return parse_gpu_list(contents(path), stamp);
}

std::vector<NodeGpu> gpus_of_nvml() {
  std::string error;
  const std::unique_ptr<Nvml> nvml = Nvml::open(&error);
  if (nvml == nullptr) throw Failure(error);
  std::vector<NodeGpu> gpus;
  for (const NvmlDevice& device : nvml->devices()) {
    const auto memory = nvml->memory(device.handle);
    if (!memory) throw Failure("the driver does not tell the memory of " + device.uuid_text);
    gpus.push_back({device.minor, device.uuid_text, device.name, memory->total});
  }
  std::sort(gpus.begin(), gpus.end(),
            [](const NodeGpu& a, const NodeGpu& b) { return a.minor < b.minor; });
  if (gpus.empty()) throw Failure("the driver shows no GPU");
  return gpus;
}

}  // namespace

std::string gpu_stamp(const std::string& proc) {
  std::string text =
      contents(proc + "/sys/kernel/random/boot_id") + contents(proc + "/driver/nvidia/version");
  std::vector<std::string> cards;
  std::error_code error;
  for (const auto& card :
       std::filesystem::directory_iterator(proc + "/driver/nvidia/gpus", error)) {
    cards.push_back(card.path().filename().string() + " " + contents(card.path() / "information"));
  }
  std::sort(cards.begin(), cards.end());
  for (const std::string& card : cards) text += card;
  return one_line(text);
}

std::string gpu_list_text(const std::string& stamp, const std::vector<NodeGpu>& gpus) {
  std::string text = stamp + "\n";
  for (const NodeGpu& gpu : gpus) {
    text += fmt::format("{} {} {} {}\n", gpu.minor, gpu.uuid, gpu.total, one_line(gpu.name));
  }
  return text;
}

std::vector<NodeGpu> parse_gpu_list(const std::string& text, const std::string& stamp) {
  std::istringstream lines(text);
  std::string line;
  std::vector<NodeGpu> gpus;
  if (!std::getline(lines, line) || line != stamp) return {};
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    NodeGpu gpu;
    words >> gpu.minor >> gpu.uuid >> gpu.total >> std::ws;
    if (!words || gpu.total == 0) return {};
    std::getline(words, gpu.name);
    gpus.push_back(gpu);
  }
  return gpus;
}

std::vector<NodeGpu> node_gpus(const NodeState& state) {
  const std::string stamp = gpu_stamp("/proc");
  std::vector<NodeGpu> gpus = kept_gpus(state, stamp);
  if (!gpus.empty()) return gpus;
  gpus = gpus_of_nvml();
  state.publish(kCacheName, gpu_list_text(stamp, gpus));
  return gpus;
}

}  // namespace softmig::cli
