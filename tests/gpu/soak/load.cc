// load NAME [SECONDS] [SEED]: mixed load for chaos and soak. Every name runs on the simulated GPU
// and on a card, and prints lines of JSON.
//
//   forks          fork while another thread is in the midst of each route to memory and of
//   launches threads        threads that come, use the GPU and go little_memory  the library gets
//   no memory from the host: errors, and no crash long           works for SECONDS by all routes in
//   turn (or by the one that a fourth argument
//                  names), launches, and says every 10 s what it holds and what it costs the host
//   short          takes memory by some routes, launches, and ends without giving anything back
#include <dirent.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "routes/route.h"
#include "stuck/kit.h"

namespace softmig::gpu_test {

std::atomic<int64_t> g_library_bytes{0};  // mapped by libsoftmig.so, see mmap below

namespace {

constexpr double kMostChildMs = 20000;
constexpr uint64_t kPiece = 8 * kMiB;

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}
int descriptors() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (folder != nullptr && readdir(folder) != nullptr) count++;
  if (folder != nullptr) closedir(folder);
  return count;
}

// Takes pieces by a route and gives them back. False: the driver lacks it, or something failed that
// is no lack of memory.
bool use_route(const std::string& name, const Session& session, int pieces, std::string* fault) {
  bool missing = false;
  const std::unique_ptr<Route> route = make_route(name, session, &missing);
  if (missing || route == nullptr) return true;
  CUresult code = CUDA_SUCCESS;
  uint64_t got = 0;
  for (int i = 0; i < pieces && code == CUDA_SUCCESS; i++) code = route->take(kPiece, &got);
  if (code != CUDA_SUCCESS && code != CUDA_ERROR_OUT_OF_MEMORY)
    *fault = name + " takes: " + error_name(session.driver, code);
  code = route->give_back();
  route->finish();
  if (code != CUDA_SUCCESS) *fault = name + " gives back: " + error_name(session.driver, code);
  return fault->empty();
}

// What a child of a process with a GPU may try: errors are fine, waiting is not.
[[noreturn]] void live_as_child(const Driver& d) {
  size_t free = 0, total = 0;
  CUdeviceptr address = 0;
  d.cuMemGetInfo_v2(&free, &total);
  d.cuMemAlloc_v2(&address, kPiece);
  d.cuMemFree_v2(address);
  cu().cuLaunchKernel(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
  dlsym(RTLD_DEFAULT, "cuMemAlloc_v2");
  dlsym(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_NOLOAD), "nvmlInit_v2");
  _exit(0);
}

bool child_ends(pid_t pid) {
  const double end = now_ms() + kMostChildMs;
  int status = 0;
  while (now_ms() < end) {
    if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    sleep_ms(0.2);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return false;
}

// Children are born while `body` runs again and again in another thread.
int fork_beside(Checks::Report& report, const Session& session, const std::string& what, int forks,
                const std::function<bool()>& body) {
  std::atomic<bool> stop{false}, good{true};
  std::atomic<int> turns{0};
  std::thread worker([&] {
    cu().cuCtxSetCurrent(session.context);
    while (!stop && good) {
      if (!body()) good = false;
      turns++;
    }
  });
  std::mt19937 random(7);
  int made = 0;
  for (; made < forks && good; made++) {
    usleep(random() % 500);
    const pid_t pid = fork();
    if (pid == 0) live_as_child(session.driver);
    if (!report.expect(child_ends(pid), "a child forked beside " + what + " does not end")) break;
  }
  stop = true;
  worker.join();
  report.expect(good, what + " failed while children were made");
  report.expect(turns > 0, what + " never ran");
  return made;
}

bool open(Session* session, Gpu* gpu, Checks::Report& report) {
  std::string step;
  return report.result(session->open(Lookup{}, 0, &step), CUDA_SUCCESS, "opening the device") &&
         gpu->open(report);
}

void forks(Checks::Report& report) {
  Session session;
  Gpu gpu;
  if (!open(&session, &gpu, report)) return;
  const CUstream stream = gpu.stream();
  std::string fault;
  for (const std::string& name : piece_routes()) use_route(name, session, 2, &fault);
  const uint64_t before = session.free_bytes();
  int made = 0;
  for (const std::string& name : piece_routes()) {
    if (!report.is_good()) return;
    made +=
        fork_beside(report, session, name, 8, [&] { return use_route(name, session, 2, &fault); });
  }
  report.expect(fault.empty(), fault);
  made += fork_beside(report, session, "launches", 40, [&] {
    return gpu.launch(stream, 5) == CUDA_SUCCESS &&
           cu().cuStreamSynchronize(stream) == CUDA_SUCCESS;
  });
  gpu.has_right_sum(report);
  report.equal(session.free_bytes(), before, "free after all children have gone");
  report.note("forks", made);
}

void threads(Checks::Report& report) {
  Session session;
  Gpu gpu;
  if (!open(&session, &gpu, report)) return;
  const CUstream stream = gpu.stream();
  std::atomic<bool> good{true};
  const auto wave = [&] {
    std::vector<std::thread> all;
    for (int i = 0; i < 8; i++)
      all.emplace_back([&] {
        CUdeviceptr address = 0;
        cu().cuCtxSetCurrent(session.context);
        if (session.driver.cuMemAlloc_v2(&address, kPiece) != CUDA_SUCCESS ||
            gpu.launch(stream, 1) != CUDA_SUCCESS ||
            session.driver.cuMemFree_v2(address) != CUDA_SUCCESS)
          good = false;
      });
    for (std::thread& one : all) one.join();
  };
  for (int i = 0; i < 20; i++) wave();
  cu().cuStreamSynchronize(stream);
  const uint64_t before = session.free_bytes(), resident = resident_bytes();
  const int open_files = descriptors();
  for (int i = 0; i < 100 && good; i++) wave();
  report.expect(good, "a thread was refused");
  gpu.has_right_sum(report);
  report.equal(session.free_bytes(), before, "free after 800 threads");
  report.equal(static_cast<uint64_t>(descriptors()), static_cast<uint64_t>(open_files),
               "descriptors after 800 threads");
  report.expect(resident_bytes() < resident + 4 * kMiB, "memory grew with the threads");
}

// Where the library itself gets no more memory from the host (LOAD_LIBRARY_MAPS, see mmap below;
// the program and the driver do): all routes until something fails, and back. The exit status says
// what was wrong.
int starve() {
  Session session;
  std::string step, fault;
  if (session.open(Lookup{}, 0, &step) != CUDA_SUCCESS) return 0;
  bool given_back = true;
  for (const std::string& name : piece_routes()) {
    bool missing = false;
    const std::unique_ptr<Route> route = make_route(name, session, &missing);
    if (missing || route == nullptr) continue;
    CUresult code = CUDA_SUCCESS;
    uint64_t got = 0;
    for (int i = 0; i < 600 && code == CUDA_SUCCESS; i++) code = route->take(64 * kKiB, &got);
    given_back = given_back && route->give_back() == CUDA_SUCCESS;
    route->finish();
  }
  // Once there is memory again the limit holds, also where there was none for the ledger.
  unsetenv("LOAD_LIBRARY_MAPS");
  sleep_ms(50);
  if (session.total_bytes() > 32 * kGiB) return 4;
  return given_back ? 0 : 3;
}

void little_memory(Checks::Report& report) {
  for (int maps = 0; maps <= 12; maps++) {
    const pid_t pid = fork();
    if (pid == 0) {
      setenv("LOAD_LIBRARY_MAPS", std::to_string(maps).c_str(), 1);
      execl("/proc/self/exe", "load", "starve", nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    const std::string what = "with " + std::to_string(maps) + " mappings";
    if (WIFSIGNALED(status))
      report.expect(false, what + ": signal " + std::to_string(WTERMSIG(status)));
    else
      report.equal(static_cast<uint64_t>(WEXITSTATUS(status)), 0, what);
  }
}

// ---- soak

void say(const char* what, uint64_t turns, const Session& session) {
  Line line(what);
  line.add("pid", static_cast<int64_t>(getpid())).add("turns", turns);
  line.add("free", session.free_bytes()).add("resident", resident_bytes());
  line.add("descriptors", descriptors()).add("library", g_library_bytes.load()).print();
  std::fflush(stdout);
}

// Between lines everything is given back, so that the figures of two lines can be compared.
int run_long(double seconds, unsigned seed, const std::string& only) {
  Checks::Report report;
  Session session;
  Gpu gpu;
  if (!open(&session, &gpu, report)) return std::fprintf(stderr, "%s\n", report.text().c_str()), 1;
  const CUstream stream = gpu.stream();
  std::vector<std::string> names = piece_routes();
  if (!only.empty()) names = {only};
  std::mt19937 random(seed);
  std::string fault;
  uint64_t turns = 0;
  const double end = now_ms() + seconds * 1000;
  double next = now_ms() + 10000;
  while (now_ms() < end && fault.empty()) {
    use_route(names[random() % names.size()], session, 1 + static_cast<int>(random() % 6), &fault);
    for (unsigned i = random() % 4; i > 0; i--)
      if (gpu.launch(stream, 20) != CUDA_SUCCESS) fault = "a launch failed";
    if (random() % 8 == 0) cu().cuStreamSynchronize(stream);
    sleep_ms(random() % 4);
    turns++;
    if (now_ms() < next) continue;
    next += 10000;
    cu().cuStreamSynchronize(stream);
    say("load", turns, session);
  }
  if (!gpu.has_right_sum(report)) fault = report.text();
  if (!fault.empty()) std::fprintf(stderr, "%s\n", fault.c_str());
  say("end", turns, session);
  return fault.empty() ? 0 : 1;
}

// Ends as programs do that do not clean up; whoever kills it does so anywhere.
int run_short(unsigned seed) {
  Checks::Report report;
  Session session;
  Gpu gpu;
  if (!open(&session, &gpu, report)) return 1;
  std::mt19937 random(seed);
  const std::vector<std::string> names = piece_routes();
  static std::vector<std::unique_ptr<Route>> kept;
  for (int i = 0; i < 6; i++) {
    bool missing = false;
    std::unique_ptr<Route> route = make_route(names[random() % names.size()], session, &missing);
    if (missing || route == nullptr) continue;
    uint64_t got = 0;
    for (unsigned n = random() % 4; n > 0; n--) route->take(kPiece, &got);
    if (random() % 2 == 0) route->give_back();
    kept.push_back(std::move(route));
    gpu.launch(nullptr, 20);
  }
  _exit(0);
}

}  // namespace
}  // namespace softmig::gpu_test

namespace {

bool is_library(const void* caller) {
  Dl_info info{};
  return dladdr(caller, &info) != 0 && strstr(info.dli_fname, "libsoftmig") != nullptr;
}

bool may_map() {
  static std::atomic<int> granted{0};
  const char* most = getenv("LOAD_LIBRARY_MAPS");
  return most == nullptr || granted++ < atoi(most);
}

}  // namespace

// The library's calls come here, as everybody's do: it has no other memory than what it maps.
extern "C" __attribute__((visibility("default"))) void* mmap(void* at, size_t bytes, int protection,
                                                             int flags, int fd, off_t offset) {
  const bool counts = is_library(__builtin_return_address(0));
  if (counts && !may_map()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  const long result = syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
  if (counts && result != -1) softmig::gpu_test::g_library_bytes += static_cast<int64_t>(bytes);
  return reinterpret_cast<void*>(result);
}

extern "C" __attribute__((visibility("default"))) int munmap(void* at, size_t bytes) {
  if (is_library(__builtin_return_address(0)))
    softmig::gpu_test::g_library_bytes -= static_cast<int64_t>(bytes);
  return static_cast<int>(syscall(SYS_munmap, at, bytes));
}

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  const std::string name = argc > 1 ? argv[1] : "";
  const unsigned seed = argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1;
  if (name == "long")
    return run_long(argc > 2 ? std::atof(argv[2]) : 60, seed, argc > 4 ? argv[4] : "");
  if (name == "starve") return starve();
  if (name == "short") return run_short(seed);
  Checks checks;
  checks.add("forks", forks);
  checks.add("threads", threads);
  checks.add("little_memory", little_memory);
  return checks.run(argc, argv);
}
