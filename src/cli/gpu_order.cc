#include "cli/gpu_order.h"

#include <fmt/core.h>
#include <strings.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "cli/child.h"
#include "cli/failure.h"
#include "cli/job_gres.h"

namespace softmig::cli {
namespace {

constexpr double kSlurmdSeconds = 10;
constexpr const char* kCacheName = "gres";

std::string stamp_of(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return path + " - ";
  return fmt::format("{} {} {} {}.{} ", path, status.st_ino, status.st_size, status.st_mtim.tv_sec,
                     status.st_mtim.tv_nsec);
}

// "Include FILE" lines; a relative FILE is in the folder of slurm.conf.
std::string stamp_with_includes(const std::string& folder, const std::string& path) {
  std::string stamps = stamp_of(path);
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word, name;
    words >> word >> name;
    if (strcasecmp(word.c_str(), "include") != 0 || name.empty()) continue;
    stamps += stamp_of(name.front() == '/' ? name : folder + "/" + name);
  }
  return stamps;
}

std::vector<int> numbers_in(const std::string& line) {
  std::istringstream words(line);
  std::vector<int> numbers;
  for (int number = 0; words >> number;) numbers.push_back(number);
  return numbers;
}

}  // namespace

std::string slurm_config_stamp(const std::string& slurm_conf) {
  const std::string folder = slurm_conf.substr(0, slurm_conf.rfind('/'));
  return stamp_with_includes(folder, slurm_conf) +
         stamp_with_includes(folder, folder + "/gres.conf");
}

std::vector<int> slurm_gpu_order(const NodeState& state, const std::string& node) {
  const char* conf = std::getenv("SLURM_CONF");
  const std::string stamp =
      node + " " + slurm_config_stamp(conf != nullptr ? conf : "/etc/slurm/slurm.conf");
  {
    std::ifstream cache(state.path(kCacheName));
    std::string known, order;
    if (std::getline(cache, known) && std::getline(cache, order) && known == stamp) {
      return numbers_in(order);
    }
  }
  const ChildResult result = run_child({"slurmd", "-G", "-N", node}, kSlurmdSeconds);
  if (!result.started || result.status != 0) return {};
  const std::vector<int> order = parse_slurmd_gres(result.err + "\n" + result.out);
  std::string text = stamp + "\n";
  for (const int number : order) text += fmt::format("{} ", number);
  if (!order.empty()) state.publish(kCacheName, text + "\n");
  return order;
}

}  // namespace softmig::cli
