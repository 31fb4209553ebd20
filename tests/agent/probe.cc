// What the tests of the agent run as programs of jobs, honest and not.
//
//   probe region PATH UID        makes the region of a job
//   probe hold MIB [SECONDS]     takes GPU memory and waits, or ends after so long
//   probe busy US GAP            runs kernels of US us with GAP us between them
//   probe bomb COUNT MIB         COUNT processes that hold
//   probe detach MIB             holds in a session of its own, two forks away
//   probe exec MIB               makes a context, then execve without the preload, then holds
//   probe churn SECONDS SEED     processes that come, take, give back and go
//   probe want MIB               allocates, and says whether that was refused
//   probe empty PATH             sets the use of every device in a region to 0, again and again
//   probe noise PATH SEED        writes random bytes over a region
//
// hold, busy, detach and exec print "ok PID" once they have what they wanted.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "abi/cuda.h"
#include "abi/region.h"
#include "job/region.h"

namespace {

constexpr const char* kKernel = R"(
.version 6.0
.target sm_50
.address_size 64
.visible .entry spin_us(.param .u64 length) {
  .reg .u64 %us, %length, %begin, %passed;
  .reg .pred %early;
  ld.param.u64 %us, [length];
  mul.lo.u64 %length, %us, 1000;
  mov.u64 %begin, %globaltimer;
again:
  mov.u64 %passed, %globaltimer;
  sub.u64 %passed, %passed, %begin;
  setp.lt.u64 %early, %passed, %length;
  @%early bra again;
  ret;
}
)";

struct Cuda {
#define FUNCTIONS(X)     \
  X(cuInit)              \
  X(cuDeviceGet)         \
  X(cuCtxCreate_v2)      \
  X(cuCtxDestroy_v2)     \
  X(cuMemAlloc_v2)       \
  X(cuMemFree_v2)        \
  X(cuModuleLoadData)    \
  X(cuModuleGetFunction) \
  X(cuLaunchKernel)      \
  X(cuCtxSynchronize)
#define POINTER(name) decltype(&::name) name = nullptr;
  FUNCTIONS(POINTER)
  Cuda() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr) std::exit(3);
#define FIND(name) (name) = reinterpret_cast<decltype(name)>(dlsym(library, #name));
    FUNCTIONS(FIND)
  }
  int context() {
    CUdevice device = 0;
    CUresult result = cuInit(0);
    const char* ordinal = std::getenv("PROBE_DEVICE");
    if (result == CUDA_SUCCESS) {
      result = cuDeviceGet(&device, ordinal != nullptr ? std::atoi(ordinal) : 0);
    }
    if (result == CUDA_SUCCESS) result = cuCtxCreate_v2(&made, 0, device);
    return static_cast<int>(result);
  }
  int take(unsigned long mib) {
    CUdeviceptr address = 0;
    return mib == 0 ? 0 : static_cast<int>(cuMemAlloc_v2(&address, mib << 20));
  }

  CUcontext made = nullptr;
};

[[noreturn]] void stay(int error) {
  if (error != 0) {
    std::printf("error %d\n", error);
    std::fflush(stdout);
    _exit(4);
  }
  std::printf("ok %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  for (;;) pause();
}

[[noreturn]] void hold(unsigned long mib, unsigned long seconds) {
  Cuda cuda;
  int error = cuda.context();
  if (error == 0) error = cuda.take(mib);
  if (error != 0 || seconds == 0) stay(error);
  std::printf("ok %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  sleep(static_cast<unsigned>(seconds));
  std::exit(static_cast<int>(cuda.cuCtxDestroy_v2(cuda.made)));
}

[[noreturn]] void busy(unsigned long us, unsigned long gap) {
  Cuda cuda;
  int error = cuda.context();
  CUmodule module = nullptr;
  CUfunction kernel = nullptr;
  if (error == 0) error = static_cast<int>(cuda.cuModuleLoadData(&module, kKernel));
  if (error == 0) error = static_cast<int>(cuda.cuModuleGetFunction(&kernel, module, "spin_us"));
  if (error == 0) std::printf("ok %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  unsigned long long length = us;
  void* arguments[] = {&length};
  while (error == 0) {
    error = static_cast<int>(
        cuda.cuLaunchKernel(kernel, 1024, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
    if (error == 0) error = static_cast<int>(cuda.cuCtxSynchronize());
    if (gap != 0) usleep(static_cast<useconds_t>(gap));
  }
  stay(error);
}

[[noreturn]] void bomb(int count, unsigned long mib) {
  for (int i = 0; i < count; i++) {
    if (fork() == 0) hold(mib, 0);
  }
  std::printf("ok %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  for (;;) pause();
}

[[noreturn]] void detach(unsigned long mib) {
  if (fork() != 0) _exit(0);
  setsid();
  if (fork() != 0) _exit(0);
  hold(mib, 0);
}

[[noreturn]] void exec_without(char* self, char* mib) {
  Cuda cuda;
  if (cuda.context() != 0) stay(1);
  unsetenv("LD_PRELOAD");
  char verb[] = "hold";
  char* words[] = {self, verb, mib, nullptr};
  execv("/proc/self/exe", words);
  _exit(5);
}

// One short life of an honest program.
[[noreturn]] void live(unsigned seed) {
  std::mt19937 random(seed);
  Cuda cuda;
  if (cuda.context() != 0) _exit(0);  // no room is no fault
  for (int i = 0; i < 20; i++) {
    CUdeviceptr address = 0;
    if (cuda.cuMemAlloc_v2(&address, (1 + random() % 600) << 20) != CUDA_SUCCESS) continue;
    usleep(random() % 20000);
    if (random() % 4 != 0) cuda.cuMemFree_v2(address);
  }
  _exit(0);
}

[[noreturn]] void churn(int seconds, unsigned seed) {
  std::printf("ok %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  std::mt19937 random(seed);
  const time_t end = time(nullptr) + seconds;
  while (time(nullptr) < end) {
    pid_t children[3];
    for (pid_t& child : children) {
      const auto number = static_cast<unsigned>(random());
      child = fork();
      if (child == 0) live(number);
    }
    usleep(random() % 200000);
    if (random() % 3 == 0) kill(children[0], SIGKILL);
    for (const pid_t child : children) waitpid(child, nullptr, 0);
  }
  _exit(0);
}

int want(unsigned long mib) {
  Cuda cuda;
  int error = cuda.context();
  if (error == 0) error = cuda.take(mib);
  std::printf("result %d\n", error);
  std::fflush(stdout);
  for (;;) pause();
}

[[noreturn]] void empty(const char* path) {
  using softmig::abi::RegionDevice;
  using softmig::abi::RegionHeader;
  const int fd = open(path, O_RDWR);
  const uint64_t nothing = 0;
  for (;;) {
    for (unsigned i = 0; i < softmig::abi::kMaxDevices; i++) {
      const size_t at =
          offsetof(RegionHeader, device) + i * sizeof(RegionDevice) + offsetof(RegionDevice, use);
      if (pwrite(fd, &nothing, sizeof nothing, static_cast<off_t>(at)) < 0) _exit(6);
    }
    usleep(500);
  }
}

int noise(const char* path, unsigned seed) {
  std::mt19937_64 random(seed);
  const int fd = open(path, O_RDWR);
  if (fd < 0) return 6;
  std::vector<uint64_t> words(8192);
  // The header's sizes stay right in every other file, so that what lies behind them is read too.
  const off_t begin = seed % 2 == 0 ? 64 : 0;
  for (uint64_t& word : words) word = random();
  if (pwrite(fd, words.data(), words.size() * 8, begin) < 0) return 6;
  const uint32_t slots = seed % 3 == 0 ? 0xffffffff : 4096;
  if (begin != 0 && pwrite(fd, &slots, 4, offsetof(softmig::abi::RegionHeader, high_water)) < 0) {
    return 6;
  }
  for (int i = 0; i < 64; i++) {
    const auto at = static_cast<off_t>(offsetof(softmig::abi::Region, slot) + i * 1088 + begin);
    if (pwrite(fd, words.data() + i * 64, 512, at) < 0) return 6;
  }
  if (seed % 5 == 0 &&
      ftruncate(fd, static_cast<off_t>(random() % softmig::abi::kRegionSize)) != 0) {
    return 6;
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return 2;
  const std::string verb = words[1];
  const unsigned long first = std::strtoul(words[2], nullptr, 10);
  const unsigned long second = count > 3 ? std::strtoul(words[3], nullptr, 10) : 0;
  if (verb == "region") {
    return softmig::job::create_region_file(words[2], static_cast<uint32_t>(second),
                                            static_cast<uint32_t>(second));
  }
  if (verb == "hold") hold(first, second);
  if (verb == "busy") busy(first, second);
  if (verb == "bomb") bomb(static_cast<int>(first), second);
  if (verb == "detach") detach(first);
  if (verb == "exec") exec_without(words[0], words[2]);
  if (verb == "churn") churn(static_cast<int>(first), static_cast<unsigned>(second));
  if (verb == "want") return want(first);
  if (verb == "empty") empty(words[2]);
  if (verb == "noise") return noise(words[2], static_cast<unsigned>(second));
  return 2;
}
