// chaos_churn [--seconds N] [--processes N] [--seed N]
//
// Many processes join a region, take and give back memory, export it to each other and leave: by
// their own end, by SIGKILL at any moment, by execve. Whoever is refused takes back the dead. While
// they do, the total never passes the limit (an export counts twice for an instant) and every
// process may say for itself that it has what it was granted. In the end nothing is left, and the
// table of slots has not grown beyond what lived at one time.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>

#include "job/slice.h"
#include "policy/ledger.h"
#include "stage.h"

namespace softmig::chaos {
namespace {

constexpr uint64_t kPage = 1 << 20, kLimit = 1024 * kPage;
constexpr uint64_t kMostExported = 4 * kPage;
constexpr policy::Uuid kGpu = {.byte = {1, 2, 3}};

job::Slice& slice() { return job::slice(); }
double now_s() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}
uint64_t used(const abi::Region& region) {
  return policy::used_units(region.header.device[0].use.load()) * abi::kUnit;
}

// Of this process.
uint64_t charged() { return policy::charged_units(slice().account(0)->charge.load()) * abi::kUnit; }

// Its exit status says what was broken: 0 nothing, 3 its charge is not what it was granted.
int live(unsigned seed, bool may_exec) {
  std::mt19937 random(seed);
  uint64_t mine = 0;
  const int turns = 1 + static_cast<int>(random() % 60);
  for (int i = 0; i < turns; i++) {
    const uint64_t bytes = (1 + random() % 64) * kPage;
    int object = -1;
    switch (random() % 6) {
      case 0:
      case 1:
        if (slice().reserve(0, bytes)) mine += bytes;
        break;
      case 2:
        if (mine >= bytes) slice().release(0, bytes), mine -= bytes;
        break;
      case 3:
        if (mine < kMostExported) break;
        object = slice().make_object(1 + random() % 16, 0, kMostExported);
        if (object >= 0) mine -= kMostExported;
        break;
      case 4:
        object = slice().hold_object(1 + random() % 16);
        break;
      default:
        usleep(random() % 3000);
    }
    if (object >= 0 && random() % 2 == 0) slice().drop_object(object);
    if (slice().slot() >= 0 && charged() != mine) return 3;
  }
  if (may_exec && random() % 4 == 0) {
    execl("/proc/self/exe", "chaos_churn", "--live", std::to_string(random()).c_str(), nullptr);
  }
  return 0;
}

void set_up() {
  slice().mode();
  slice().add_device(kGpu, 0);
}

class Churn {
 public:
  Churn(unsigned seed, size_t processes, const abi::Region& region)
      : random_(seed), processes_(processes), region_(region) {}

  bool run(double seconds) {
    const double end = now_s() + seconds;
    while (now_s() < end && fault_.empty()) turn();
    for (const pid_t pid : living_) kill(pid, SIGKILL);
    while (!living_.empty()) reap(0);
    return fault_.empty();
  }
  const std::string& fault() const { return fault_; }
  uint64_t joined() const { return joined_; }
  uint64_t killed() const { return killed_; }

 private:
  void turn() {
    while (living_.size() < processes_ && fault_.empty()) start();
    if (random_() % 3 == 0) kill_one();
    reap(WNOHANG);
    const uint64_t most = kLimit + processes_ * kMostExported;
    if (used(region_) > most) fault_ = "the total is " + std::to_string(used(region_));
    usleep(500);
  }
  void start() {
    const unsigned seed = random_();
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      slice().mode();
      _exit(live(seed, true));
    }
    if (pid < 0) fault_ = "fork failed";
    if (pid > 0) living_.insert(pid), joined_++;
  }
  void kill_one() {
    auto chosen = living_.begin();
    std::advance(chosen, random_() % living_.size());
    kill(*chosen, SIGKILL);
    killed_++;
  }
  void reap(int how) {
    int status = 0;
    for (pid_t pid; !living_.empty() && (pid = waitpid(-1, &status, how)) > 0;) {
      living_.erase(pid);
      if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        fault_ = "a process ended with status " + std::to_string(WEXITSTATUS(status));
      if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        fault_ = "a process died of signal " + std::to_string(WTERMSIG(status));
      if (how == 0) break;
    }
  }

  std::mt19937 random_;
  const size_t processes_;
  const abi::Region& region_;
  std::set<pid_t> living_;
  std::string fault_;
  uint64_t joined_ = 0, killed_ = 0;
};

std::string left_over(const abi::Region& region, size_t processes) {
  slice().wait_for_dead();
  if (!slice().reserve(0, kLimit)) return "the limit is not free in the end";
  if (used(region) != kLimit) return "the total is " + std::to_string(used(region));
  slice().release(0, kLimit);
  slice().wait_for_dead();
  const uint32_t high = region.header.high_water.load();
  int taken = 0, objects = 0;
  for (uint32_t i = 0; i < high; i++) taken += region.slot[i].owner.load() != 0;
  for (const abi::RegionObject& object : region.object) objects += object.key.load() != 0;
  if (taken != 1) return std::to_string(taken - 1) + " slots stay behind";
  if (objects != 0) return std::to_string(objects) + " objects stay behind";
  // Slots of the dead lie there until somebody is refused.
  if (high > 64 * processes) return "the table has grown to " + std::to_string(high) + " slots";
  std::printf("%u slots were used at most; ", high);
  return {};
}

int run(double seconds, size_t processes, unsigned seed) {
  const OwnSlice place("churn", "1024M");
  set_up();
  const abi::RegionAccount* mine = slice().account(0);
  const auto& region = *reinterpret_cast<const abi::Region*>(
      reinterpret_cast<const char*>(mine) - offsetof(abi::RegionSlot, device) -
      static_cast<size_t>(slice().slot()) * sizeof(abi::RegionSlot) - offsetof(abi::Region, slot));
  Churn churn(seed, processes, region);
  churn.run(seconds);
  const std::string fault = churn.fault().empty() ? left_over(region, processes) : churn.fault();
  std::printf("%zu processes at a time, %lu joined, %lu killed: %s\n", processes,
              static_cast<unsigned long>(churn.joined()),
              static_cast<unsigned long>(churn.killed()),
              fault.empty() ? "nothing lost, nothing left" : fault.c_str());
  return fault.empty() ? 0 : 1;
}

}  // namespace
}  // namespace softmig::chaos

int main(int argc, char** argv) {
  using namespace softmig::chaos;
  if (argc == 3 && std::strcmp(argv[1], "--live") == 0) {
    set_up();
    return live(static_cast<unsigned>(std::atoll(argv[2])), false);
  }
  double seconds = 20;
  size_t processes = 64;
  unsigned seed = 1;
  read_options(argc, argv, "chaos_churn [--seconds N] [--processes N] [--seed N]",
               {number_option("--seconds", &seconds), number_option("--processes", &processes),
                number_option("--seed", &seed)});
  return run(seconds, processes, seed);
}
