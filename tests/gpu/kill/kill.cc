// kill MODE ROUNDS [--within MS] [--seed N] [--device N]
//
// A holder takes and frees memory and is killed with SIGKILL at a random moment; then everything
// that was free before it came must be granted to this process by one request, within --within
// milliseconds (10), and the figures must be the same to the byte. Two more processes hold memory
// all the while and must never lose their place. MODE:
//   random       killed anywhere, also while it makes its context
//   fork_child   the holder has forked; the child lives on
//   close_range  the holder has closed every descriptor above 2, as a daemon would
//   native       as random, outside of a slice, for comparison: how long 1 GiB takes then
// One line of JSON at the end. The slice needs room for four contexts and 1 GiB.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "common/gpu.h"
#include "common/peer.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kPage = 2 * kMiB;
constexpr uint64_t kSurvivorBytes = 128 * kMiB;
constexpr uint64_t kHeldBytes = 256 * kMiB;

struct Options {
  std::string mode;
  int rounds = 0;
  double within_ms = 10;
  unsigned int seed = 1;
  int device = 0;
};

// ---- the holder: this program again, its channel is standard input

struct Hello {
  CUresult code;
  pid_t child;  // a living child of the holder, 0 if it has none
};

// Takes and frees pieces by several routes, for ever.
[[noreturn]] void churn(const Session& session, unsigned int seed) {
  std::mt19937 random(seed);
  const Driver& d = session.driver;
  std::vector<CUdeviceptr> linear;
  std::vector<CUmemGenericAllocationHandle> physical;
  CUstream stream = nullptr;
  d.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, session.device};
  for (;;) {
    const uint64_t bytes = (1 + random() % 16) * kPage;
    CUdeviceptr address = 0;
    CUmemGenericAllocationHandle handle = 0;
    switch (random() % 4) {
      case 0:
        if (d.cuMemAlloc_v2(&address, bytes) == CUDA_SUCCESS) linear.push_back(address);
        break;
      case 1:
        if (d.cuMemAllocAsync(&address, bytes, stream) == CUDA_SUCCESS) linear.push_back(address);
        break;
      case 2:
        if (d.cuMemCreate(&handle, bytes, &prop, 0) == CUDA_SUCCESS) physical.push_back(handle);
        break;
      default:
        if (linear.size() > 8) {
          d.cuMemFree_v2(linear.back());
          linear.pop_back();
        }
        if (physical.size() > 4) {
          d.cuMemRelease(physical.back());
          physical.pop_back();
        }
    }
  }
}

int holder(const Options& options) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Channel channel(STDIN_FILENO);
  Session session;
  std::string step;
  Hello hello{session.open(Lookup{}, options.device, &step), 0};
  if (hello.code == CUDA_SUCCESS && options.mode != "random" && options.mode != "native") {
    CUdeviceptr address = 0;
    hello.code = session.driver.cuMemAlloc_v2(&address, kHeldBytes);
  }
  if (options.mode == "fork_child") {
    hello.child = fork();
    if (hello.child == 0) {
      for (;;) pause();
    }
  }
  if (options.mode == "close_range") syscall(SYS_close_range, 3U, ~0U, 0U);
  channel.put(hello);
  if ((options.mode == "random" || options.mode == "native") && hello.code == CUDA_SUCCESS)
    churn(session, options.seed);
  for (;;) pause();
}

class Holder {
 public:
  Holder(const Options& options, unsigned int seed) {
    int ends[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return;
    const std::string seed_text = std::to_string(seed), device = std::to_string(options.device);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDIN_FILENO);
      execl("/proc/self/exe", "kill", options.mode.c_str(), "0", "--seed", seed_text.c_str(),
            "--device", device.c_str(), "--holder", "1", nullptr);
      _exit(127);
    }
    close(ends[1]);
    channel_ = std::make_unique<Channel>(ends[0]);
  }
  ~Holder() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    if (child_ > 0) ::kill(child_, SIGKILL);
  }
  bool ready(CUresult* code) {
    Hello hello{};
    if (!channel_->get(&hello)) return false;
    child_ = hello.child;
    *code = hello.code;
    return true;
  }
  // Returns when it is dead, but still a zombie: nobody has asked for its status yet.
  void kill() {
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }

 private:
  pid_t pid_ = -1;
  pid_t child_ = 0;
  std::unique_ptr<Channel> channel_;
};

// ---- the survivors: they hold memory for the whole test and say now and then that they are well

int survivor(int device, Channel& channel) {
  Session session;
  std::string step;
  CUresult code = session.open(Lookup{}, device, &step);
  CUdeviceptr address = 0;
  if (code == CUDA_SUCCESS) code = session.driver.cuMemAlloc_v2(&address, kSurvivorBytes);
  channel.put(code);
  char command = 0;
  while (channel.get(&command)) {
    code = session.driver.cuMemAlloc_v2(&address, kPage);
    if (code == CUDA_SUCCESS) code = session.driver.cuMemFree_v2(address);
    channel.put(code);
  }
  return 0;
}

class Test {
 public:
  Test(const Options& options, const Session& session) : options_(options), session_(session) {}

  // False with text() if the promise was broken in this round.
  bool round(int number) {
    const uint64_t before = session_.free_bytes();
    Holder holder(options_, options_.seed + static_cast<unsigned int>(number));
    if (!let_it_live(holder, before)) return false;
    holder.kill();
    return is_native() ? request_natively() : reclaim(before);
  }
  const std::string& text() const { return text_; }
  double slowest_ms() const { return slowest_ms_; }

 private:
  bool broken(const std::string& text) {
    text_ = text;
    return false;
  }

  bool let_it_live(Holder& holder, uint64_t before) {
    const bool random = options_.mode == "random" || is_native();
    const bool anywhere = random && random_() % 4 == 0;
    if (anywhere) {
      sleep_ms(static_cast<double>(random_() % 40000) / 100.0);
      return true;
    }
    CUresult code = CUDA_SUCCESS;
    if (!holder.ready(&code)) return broken("the holder did not start");
    if (code != CUDA_SUCCESS) return broken("the holder got error " + std::to_string(code));
    sleep_ms(static_cast<double>(random_() % 2000) / 100.0);
    return random || still_charged(before);
  }

  // While it lives its memory is taken, whatever it did to its descriptors.
  bool still_charged(uint64_t before) {
    CUdeviceptr address = 0;
    const CUresult code = session_.driver.cuMemAlloc_v2(&address, takable(before));
    if (code == CUDA_SUCCESS) session_.driver.cuMemFree_v2(address);
    if (code != CUDA_ERROR_OUT_OF_MEMORY)
      return broken("a living holder lost its memory: " + std::to_string(code));
    return true;
  }

  bool is_native() const { return options_.mode == "native"; }

  // What the driver alone takes for a request after a death.
  bool request_natively() {
    CUdeviceptr address = 0;
    const double start = now_ms();
    const CUresult code = session_.driver.cuMemAlloc_v2(&address, kGiB);
    slowest_ms_ = std::max(slowest_ms_, now_ms() - start);
    session_.driver.cuMemFree_v2(address);
    return code == CUDA_SUCCESS || broken("error " + std::to_string(code));
  }

  bool reclaim(uint64_t before) {
    CUdeviceptr address = 0;
    const double start = now_ms();
    CUresult code = session_.driver.cuMemAlloc_v2(&address, takable(before));
    const bool first_time = code == CUDA_SUCCESS;
    while (code != CUDA_SUCCESS && now_ms() - start < 2000) {
      code = session_.driver.cuMemAlloc_v2(&address, takable(before));
    }
    const double took = now_ms() - start;
    slowest_ms_ = std::max(slowest_ms_, took);
    if (code != CUDA_SUCCESS) return broken("not given back: error " + std::to_string(code));
    session_.driver.cuMemFree_v2(address);
    const uint64_t after = session_.free_bytes();
    if (after != before)
      return broken("free was " + std::to_string(before) + ", is " + std::to_string(after));
    if (!first_time)
      return broken("refused at first, granted after " + std::to_string(took) + " ms");
    if (took > options_.within_ms) return broken("took " + std::to_string(took) + " ms");
    return true;
  }

  const Options& options_;
  const Session& session_;
  std::mt19937 random_{options_.seed};
  std::string text_;
  double slowest_ms_ = 0;
};

bool well(Child& child) {
  CUresult code = CUDA_ERROR_UNKNOWN;
  return child.channel().put('?') && child.channel().get(&code) && code == CUDA_SUCCESS;
}

int run(const Options& options) {
  const auto body = [&](Channel& channel) { return survivor(options.device, channel); };
  Child one(body), two(body);
  Session session;
  std::string step;
  Line line("kill");
  line.add("mode", options.mode).add("rounds", options.rounds);
  CUresult code = session.open(Lookup{}, options.device, &step);
  CUresult first = CUDA_ERROR_UNKNOWN, second = CUDA_ERROR_UNKNOWN;
  one.channel().get(&first);
  two.channel().get(&second);
  if (code != CUDA_SUCCESS || first != CUDA_SUCCESS || second != CUDA_SUCCESS) {
    line.add("ok", false).add("text", "no room for the survivors: " + step).print();
    return 1;
  }
  Test test(options, session);
  const uint64_t before = session.free_bytes();
  if (takable(before) == 0 && options.mode != "native") {
    line.add("ok", false).add("text", "no limit is in force").print();
    return 1;
  }
  int broken = 0, done = 0;
  std::string text;
  for (; done < options.rounds && broken < 5; ++done) {
    if (test.round(done)) continue;
    ++broken;
    text = "round " + std::to_string(done) + ": " + test.text();
  }
  if (!well(one) || !well(two)) {
    ++broken;
    text = "a survivor is not well";
  }
  const uint64_t after = session.free_bytes();
  if (after != before && broken == 0 && options.mode != "native") text = "figures drifted";
  const bool ok = broken == 0 && (after == before || options.mode == "native");
  line.add("done", done).add("broken", broken).add("slowest_ms", test.slowest_ms());
  line.add("free_before", before).add("free_after", after).add("ok", ok);
  if (!text.empty()) line.add("text", text);
  line.print();
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Options options;
  bool is_holder = false, understood = argc >= 3;
  if (understood) {
    options.mode = argv[1];
    options.rounds = std::atoi(argv[2]);
    understood = options.mode == "random" || options.mode == "fork_child" ||
                 options.mode == "close_range" || options.mode == "native";
  }
  for (int i = 3; understood && i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--within")
      options.within_ms = std::atof(argv[i + 1]);
    else if (name == "--seed")
      options.seed = static_cast<unsigned int>(std::atoi(argv[i + 1]));
    else if (name == "--device")
      options.device = std::atoi(argv[i + 1]);
    else if (name == "--holder")
      is_holder = true;
    else
      understood = false;
  }
  if (!understood) {
    std::fprintf(stderr,
                 "usage: kill random|fork_child|close_range|native ROUNDS [--within MS] [--seed N] "
                 "[--device N]\n");
    return 2;
  }
  return is_holder ? holder(options) : run(options);
}
