// views [NAME | --list]: what a program in a slice is shown of the card.
//
// Expectations come from outside, in variables:
//   TEST_LIMIT         bytes that the slice shows as its total (device 0)
//   TEST_LIMITS        UUID=BYTES,... for each device, 0 for the whole card, for per_device
//   TEST_FOREIGN_PID   a process that uses the GPU outside the slice and must not be seen
//   TEST_CONFIG        the config file that somebody rewrites while live_limit waits
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <set>

#include "common/gpu.h"
#include "common/nvml.h"
#include "common/peer.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kPage = 2 * kMiB;
constexpr uint64_t kHeld = 512 * kMiB;
constexpr unsigned char kCanary = 0xa5;

uint64_t number_from(const char* variable) {
  const char* text = getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
}

bool open(Session* session, Checks::Report& report) {
  std::string step;
  const CUresult code = session->open(Lookup{}, 0, &step);
  return report.result(code, CUDA_SUCCESS, step);
}

std::string uuid_text(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    text += hex;
    if (i == 3 || i == 5 || i == 7 || i == 9) text += '-';
  }
  return text;
}

// The NVML handle of a CUDA device, by UUID: the two may count devices differently.
bool open_nvml(const Session& s, Nvml* nvml, nvmlDevice_t* device, Checks::Report& report) {
  CUuuid uuid{};
  return report.expect(nvml->open(), "no NVML") &&
         report.result(s.driver.cuDeviceGetUuid_v2(&uuid, s.device), CUDA_SUCCESS,
                       "cuDeviceGetUuid") &&
         report.expect(
             nvml->nvmlDeviceGetHandleByUUID(uuid_text(uuid).c_str(), device) == NVML_SUCCESS,
             "NVML does not know " + uuid_text(uuid));
}

void totals(Checks::Report& report) {
  const uint64_t limit = number_from("TEST_LIMIT");
  Driver d;
  std::string step;
  if (!report.expect(load_driver(Lookup{}, &d, &step), step)) return;
  size_t total = 0;
  report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit");
  report.result(d.cuDeviceTotalMem_v2(&total, 0), CUDA_SUCCESS, "cuDeviceTotalMem");
  report.equal(total, limit, "cuDeviceTotalMem before there is a context");
  Session s;
  if (!open(&s, report)) return;
  report.result(d.cuDeviceTotalMem_v2(&total, 0), CUDA_SUCCESS, "cuDeviceTotalMem");
  report.equal(total, limit, "cuDeviceTotalMem");
  report.equal(s.total_bytes(), limit, "total of cuMemGetInfo");
  report.note("context_bytes", static_cast<double>(limit) - static_cast<double>(s.free_bytes()));
}

void free_is_true(Checks::Report& report) {
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  const uint64_t before = s.free_bytes();
  report.expect(before < s.total_bytes(), "the context is not shown");
  CUdeviceptr address = 0, rest = 0, more = 0;
  report.result(d.cuMemAlloc_v2(&address, kHeld), CUDA_SUCCESS, "512 MiB");
  report.equal(s.free_bytes(), before - kHeld, "free with 512 MiB held");
  const uint64_t all = takable(s.free_bytes());
  if (!report.expect(all > 0, "no limit is in force")) return;
  report.result(d.cuMemAlloc_v2(&rest, all), CUDA_SUCCESS, "all that is shown as free");
  report.expect(s.free_bytes() < kPage, "something is shown as free in a full slice");
  report.result(d.cuMemAlloc_v2(&more, kPage), CUDA_ERROR_OUT_OF_MEMORY, "2 MiB more");
  d.cuMemFree_v2(rest);
  d.cuMemFree_v2(address);
  report.equal(s.free_bytes(), before, "free at the end");
}

void nvml_memory(Checks::Report& report) {
  Session s;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  if (!open(&s, report) || !open_nvml(s, &nvml, &device, report)) return;
  const uint64_t limit = number_from("TEST_LIMIT");
  CUdeviceptr address = 0;
  s.driver.cuMemAlloc_v2(&address, kHeld);
  nvmlMemory_t one{};
  report.expect(nvml.nvmlDeviceGetMemoryInfo(device, &one) == NVML_SUCCESS,
                "nvmlDeviceGetMemoryInfo");
  report.equal(one.total, limit, "total, version 1");
  report.equal(one.free + one.used, one.total, "free + used, version 1");
  report.equal(one.free, s.free_bytes(), "free of NVML against that of CUDA");
  if (nvml.nvmlDeviceGetMemoryInfo_v2 == nullptr) return;
  nvmlMemory_v2_t two{};
  two.version = nvmlMemory_v2;
  report.expect(nvml.nvmlDeviceGetMemoryInfo_v2(device, &two) == NVML_SUCCESS,
                "nvmlDeviceGetMemoryInfo_v2");
  report.equal(two.total, limit, "total, version 2");
  report.equal(two.free, one.free, "free, version 2");
  report.expect(two.reserved <= two.total && two.free + two.used + two.reserved == two.total,
                "version 2 does not add up");
  report.expect(nvml.nvmlDeviceGetMemoryInfo(device, nullptr) == NVML_ERROR_INVALID_ARGUMENT,
                "null is accepted");
}

// A living process of the same slice with a context and some memory.
int neighbour(Channel& channel) {
  Session s;
  std::string step;
  CUresult code = s.open(Lookup{}, 0, &step);
  CUdeviceptr address = 0;
  if (code == CUDA_SUCCESS) code = s.driver.cuMemAlloc_v2(&address, 64 * kMiB);
  channel.put(code);
  char go = 0;
  channel.get(&go);
  return 0;
}

// One list function: the pids that it shows, after every rule of its sizes has been tried.
template <class Info, class List>
std::set<unsigned int> list_processes(const std::string& what, List list, nvmlDevice_t device,
                                      size_t at_least, Checks::Report& report) {
  std::set<unsigned int> pids;
  if (list == nullptr) return pids;
  unsigned int needed = 0;
  const nvmlReturn_t probe = list(device, &needed, nullptr);
  if (probe == NVML_ERROR_NOT_SUPPORTED) return pids;
  report.expect(needed >= at_least, what + ": count 0 tells a need of " + std::to_string(needed));
  report.expect(probe == (needed > 0 ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS),
                what + ": count 0 gave " + std::to_string(probe));
  report.expect(list(device, nullptr, nullptr) == NVML_ERROR_INVALID_ARGUMENT,
                what + ": no count is accepted");
  if (needed == 0) return pids;
  unsigned int count = needed;
  report.expect(list(device, &count, nullptr) == NVML_ERROR_INVALID_ARGUMENT,
                what + ": a count without an array is accepted");
  const size_t room = needed + 8;
  std::vector<unsigned char> bytes(room * sizeof(Info));
  auto* infos = reinterpret_cast<Info*>(bytes.data());
  const auto untouched_from = [&](size_t entry) {
    for (size_t i = entry * sizeof(Info); i < bytes.size(); ++i) {
      if (bytes[i] != kCanary) return false;
    }
    return true;
  };
  std::memset(bytes.data(), kCanary, bytes.size());
  if (at_least > 1) {
    count = static_cast<unsigned int>(at_least) - 1;
    const unsigned int given = count;
    report.expect(list(device, &count, infos) == NVML_ERROR_INSUFFICIENT_SIZE,
                  what + ": too small an array is accepted");
    report.expect(count >= at_least,
                  what + ": too small an array tells a need of " + std::to_string(count));
    report.expect(untouched_from(given), what + ": writes behind the array");
  }
  std::memset(bytes.data(), kCanary, bytes.size());
  count = needed;
  report.expect(list(device, &count, infos) == NVML_SUCCESS,
                what + ": the size that it told is not enough");
  report.expect(count <= needed && untouched_from(count), what + ": writes behind the last entry");
  for (unsigned int i = 0; i < count; ++i) pids.insert(infos[i].pid);
  report.expect(pids.size() == count, what + ": a process is listed twice");
  return pids;
}

// The pids of the list of details; *shown: this NVML has that list and gave it.
std::set<unsigned int> detailed_processes(const Nvml& nvml, nvmlDevice_t device, bool* shown,
                                          Checks::Report& report) {
  std::set<unsigned int> pids;
  *shown = false;
  if (nvml.nvmlDeviceGetRunningProcessDetailList == nullptr) return pids;
  nvmlProcessDetail_v1_t details[64] = {};
  nvmlProcessDetailList_t list{nvmlProcessDetailList_v1, 0, 64, details};
  const nvmlReturn_t rc = nvml.nvmlDeviceGetRunningProcessDetailList(device, &list);
  report.note("detail_list_code", rc);
  *shown = rc == NVML_SUCCESS;
  for (unsigned int i = 0; *shown && i < list.numProcArrayEntries; ++i) pids.insert(details[i].pid);
  return pids;
}

void process_lists(Checks::Report& report) {
  Child one(neighbour), two(neighbour);
  Session s;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  if (!open(&s, report) || !open_nvml(s, &nvml, &device, report)) return;
  CUresult code = CUDA_ERROR_UNKNOWN;
  for (Child* child : {&one, &two}) {
    child->channel().get(&code);
    report.result(code, CUDA_SUCCESS, "a neighbour");
  }
  const std::set<unsigned int> job = {static_cast<unsigned int>(getpid()),
                                      static_cast<unsigned int>(one.pid()),
                                      static_cast<unsigned int>(two.pid())};
  const auto foreign = static_cast<unsigned int>(number_from("TEST_FOREIGN_PID"));
  const auto check = [&](const std::string& name, const std::set<unsigned int>& pids, bool whole) {
    for (unsigned int pid : job)
      report.expect(!whole || pids.count(pid) == 1, name + " lacks a process of the job");
    report.expect(foreign == 0 || pids.count(foreign) == 0, name + " shows a foreign process");
    for (unsigned int pid : pids)
      report.expect(job.count(pid) == 1, name + " shows process " + std::to_string(pid));
  };
  // The job's processes compute; in the other kinds of lists none of them needs to be.
  const auto check_kind = [&](const std::string& kind, auto v1, auto v2, auto v3, bool whole) {
    const size_t n = whole ? job.size() : 0;
    const std::string names[] = {kind + " v1", kind + " v2", kind + " v3"};
    check(names[0], list_processes<nvmlProcessInfo_v1_t>(names[0], v1, device, n, report),
          whole && v1 != nullptr);
    check(names[1], list_processes<nvmlProcessInfo_v2_t>(names[1], v2, device, n, report),
          whole && v2 != nullptr);
    check(names[2], list_processes<nvmlProcessInfo_t>(names[2], v3, device, n, report),
          whole && v3 != nullptr);
  };
  check_kind("compute", nvml.nvmlDeviceGetComputeRunningProcesses,
             nvml.nvmlDeviceGetComputeRunningProcesses_v2,
             nvml.nvmlDeviceGetComputeRunningProcesses_v3, true);
  check_kind("graphics", nvml.nvmlDeviceGetGraphicsRunningProcesses,
             nvml.nvmlDeviceGetGraphicsRunningProcesses_v2,
             nvml.nvmlDeviceGetGraphicsRunningProcesses_v3, false);
  check_kind("MPS", nvml.nvmlDeviceGetMPSComputeRunningProcesses,
             nvml.nvmlDeviceGetMPSComputeRunningProcesses_v2,
             nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, false);
  bool shown = false;
  const auto detailed = detailed_processes(nvml, device, &shown, report);
  check("detail list", detailed, shown);
}

void utilisation_lists(Checks::Report& report) {
  Session s;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  if (!open(&s, report) || !open_nvml(s, &nvml, &device, report)) return;
  const auto self = static_cast<unsigned int>(getpid());
  sleep_ms(400);
  const auto check = [&](unsigned int pid, const char* what) {
    report.expect(pid == self, std::string(what) + " shows process " + std::to_string(pid));
  };
  if (nvml.nvmlDeviceGetProcessUtilization != nullptr) {
    unsigned int count = 0;
    const nvmlReturn_t probe = nvml.nvmlDeviceGetProcessUtilization(device, nullptr, &count, 0);
    report.expect(probe == NVML_ERROR_INSUFFICIENT_SIZE || probe == NVML_SUCCESS ||
                      probe == NVML_ERROR_NOT_FOUND || probe == NVML_ERROR_NOT_SUPPORTED,
                  "nvmlDeviceGetProcessUtilization: count 0 gave " + std::to_string(probe));
    std::vector<nvmlProcessUtilizationSample_t> samples(count + 8);
    count = static_cast<unsigned int>(samples.size());
    const nvmlReturn_t rc = nvml.nvmlDeviceGetProcessUtilization(device, samples.data(), &count, 0);
    for (unsigned int i = 0; rc == NVML_SUCCESS && i < count; ++i)
      check(samples[i].pid, "nvmlDeviceGetProcessUtilization");
    report.note("samples", rc == NVML_SUCCESS ? count : 0);
  }
  if (nvml.nvmlDeviceGetProcessesUtilizationInfo != nullptr) {
    nvmlProcessUtilizationInfo_v1_t infos[64] = {};
    nvmlProcessesUtilizationInfo_t info{nvmlProcessesUtilizationInfo_v1, 64, 0, infos};
    const nvmlReturn_t rc = nvml.nvmlDeviceGetProcessesUtilizationInfo(device, &info);
    for (unsigned int i = 0; rc == NVML_SUCCESS && i < info.processSamplesCount; ++i)
      check(infos[i].pid, "nvmlDeviceGetProcessesUtilizationInfo");
  }
}

// Helper of the runner: a process that holds memory and keeps the GPU busy until it is killed.
void busy(Checks::Report& report) {
  static constexpr char kSpin[] =
      ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry spin(.param .u32 n) {\n"
      "  .reg .u32 %left;\n  .reg .pred %more;\n  ld.param.u32 %left, [n];\n"
      "again:\n  sub.u32 %left, %left, 1;\n  setp.ne.u32 %more, %left, 0;\n  @%more bra again;\n"
      "  ret;\n}\n";
  Session s;
  if (!open(&s, report)) return;
  const Driver& d = s.driver;
  CUdeviceptr address = 0;
  CUmodule module = nullptr;
  CUfunction spin = nullptr;
  report.result(d.cuMemAlloc_v2(&address, 64 * kMiB), CUDA_SUCCESS, "64 MiB");
  report.result(d.cuModuleLoadData(&module, kSpin), CUDA_SUCCESS, "cuModuleLoadData");
  if (!report.result(d.cuModuleGetFunction(&spin, module, "spin"), CUDA_SUCCESS, "spin")) return;
  Line("ready").print();
  unsigned int turns = 1000000;
  void* arguments[] = {&turns};
  while (d.cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, nullptr, arguments, nullptr) ==
         CUDA_SUCCESS) {
    d.cuCtxSynchronize();
    sleep_ms(1);
  }
  report.expect(false, "cuLaunchKernel");
}

// Helper of the runner: the devices of a node as NVML counts them.
void uuids(Checks::Report& report) {
  Nvml nvml;
  unsigned int count = 0;
  if (!report.expect(nvml.open(), "no NVML")) return;
  nvml.nvmlDeviceGetCount_v2(&count);
  for (unsigned int i = 0; i < count; ++i) {
    nvmlDevice_t device = nullptr;
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE] = {};
    nvml.nvmlDeviceGetHandleByIndex_v2(i, &device);
    nvml.nvmlDeviceGetUUID(device, uuid, sizeof uuid);
    Line("device").add("uuid", uuid).print();
  }
}

// Every device by its UUID, whatever CUDA_VISIBLE_DEVICES makes of the order, in CUDA and NVML.
void per_device(Checks::Report& report) {
  const char* text = getenv("TEST_LIMITS");
  if (text == nullptr) return report.skip("TEST_LIMITS is not set");
  const std::string limits = text;
  Driver d;
  Nvml nvml;
  std::string step;
  if (!report.expect(load_driver(Lookup{}, &d, &step), step) ||
      !report.expect(nvml.open(), "no NVML"))
    return;
  report.result(d.cuInit(0), CUDA_SUCCESS, "cuInit");
  int count = 0;
  d.cuDeviceGetCount(&count);
  report.note("devices", count);
  for (int i = 0; i < count; ++i) {
    CUuuid uuid{};
    CUcontext context = nullptr;
    size_t total = 0;
    d.cuDeviceGetUuid_v2(&uuid, i);
    const std::string name = uuid_text(uuid);
    const size_t at = limits.find(name + "=");
    if (!report.expect(at != std::string::npos, "no expectation for " + name)) continue;
    const uint64_t want = std::strtoull(limits.c_str() + at + name.size() + 1, nullptr, 10);
    const std::string who = "device " + std::to_string(i) + " " + name;
    d.cuDeviceTotalMem_v2(&total, i);
    const uint64_t expected = want != 0 ? want : total;
    report.equal(total, expected, "cuDeviceTotalMem of " + who);
    report.expect(want != 0 || total > 16 * kGiB, who + " shows a limit that it does not have");
    report.result(d.cuDevicePrimaryCtxRetain(&context, i), CUDA_SUCCESS, "context of " + who);
    d.cuCtxSetCurrent(context);
    size_t free = 0;
    d.cuMemGetInfo_v2(&free, &total);
    report.equal(total, expected, "cuMemGetInfo of " + who);
    CUdeviceptr address = 0;
    report.result(d.cuMemAlloc_v2(&address, free / 2), CUDA_SUCCESS, "half of what is free");
    report.result(d.cuMemAlloc_v2(&address, free), CUDA_ERROR_OUT_OF_MEMORY,
                  "as much again as was free on " + who);
    nvmlDevice_t device = nullptr;
    nvmlMemory_t memory{};
    report.expect(nvml.nvmlDeviceGetHandleByUUID(name.c_str(), &device) == NVML_SUCCESS,
                  "NVML does not know " + name);
    nvml.nvmlDeviceGetMemoryInfo(device, &memory);
    if (want != 0) report.equal(memory.total, want, "nvmlDeviceGetMemoryInfo of " + who);
  }
}

// On a node whose cards CUDA counts fastest first and NVML by bus, a look at NVML must not give a
// card the limit of another.
void order_of_nvml(Checks::Report& report) {
  Session s;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  if (!open(&s, report) || !open_nvml(s, &nvml, &device, report)) return;
  const uint64_t before = s.total_bytes();
  nvmlMemory_t memory{};
  nvml.nvmlDeviceGetMemoryInfo(device, &memory);
  report.equal(before, number_from("TEST_LIMIT"), "total of CUDA's device 0");
  report.equal(memory.total, before, "total of the same card in NVML");
  report.equal(s.total_bytes(), before, "total after a look at NVML");
}

// Waits for the total to become another one; returns it, and in *delay how long after the config
// was rewritten that was.
uint64_t next_total(const Session& s, uint64_t old, double* delay) {
  uint64_t total = old;
  for (double deadline = now_ms() + 15000; total == old && now_ms() < deadline; sleep_ms(5))
    total = s.total_bytes();
  struct stat config {};
  timespec now{};
  stat(getenv("TEST_CONFIG"), &config);
  clock_gettime(CLOCK_REALTIME, &now);
  *delay = static_cast<double>(now.tv_sec - config.st_ctim.tv_sec) * 1e3 +
           static_cast<double>(now.tv_nsec - config.st_ctim.tv_nsec) / 1e6;
  return total;
}

// Somebody lowers the limit below what is in use, then raises it. Says "ready" before each wait.
void live_limit(Checks::Report& report) {
  if (getenv("TEST_CONFIG") == nullptr) return report.skip("TEST_CONFIG is not set");
  Session s;
  Nvml nvml;
  nvmlDevice_t device = nullptr;
  if (!open(&s, report) || !open_nvml(s, &nvml, &device, report)) return;
  const uint64_t first = s.total_bytes();
  report.equal(first, number_from("TEST_LIMIT"), "total at the start");
  CUdeviceptr address = 0, more = 0;
  const uint64_t held = takable(s.free_bytes());
  if (!report.expect(held > 0, "no limit is in force")) return;
  report.result(s.driver.cuMemAlloc_v2(&address, held), CUDA_SUCCESS, "everything");
  double delay = 0;
  Line("ready").print();
  const uint64_t lower = next_total(s, first, &delay);
  report.expect(lower < first, "the total did not go down");
  report.expect(delay <= 1100, "lowering took " + std::to_string(delay) + " ms");
  report.note("lowered_ms", delay);
  report.equal(s.free_bytes(), 0, "free when more is held than the limit");
  nvmlMemory_t memory{};
  report.expect(nvml.nvmlDeviceGetMemoryInfo(device, &memory) == NVML_SUCCESS &&
                    memory.total == lower && memory.free == 0 && memory.used <= memory.total,
                "NVML shows total " + std::to_string(memory.total) + " free " +
                    std::to_string(memory.free) + " used " + std::to_string(memory.used));
  report.result(s.driver.cuMemAlloc_v2(&more, 512), CUDA_ERROR_OUT_OF_MEMORY,
                "512 bytes above the lower limit");
  Line("ready").print();
  const uint64_t higher = next_total(s, lower, &delay);
  report.expect(higher > first, "the total did not go up");
  report.expect(delay <= 1100, "raising took " + std::to_string(delay) + " ms");
  report.note("raised_ms", delay);
  report.result(s.driver.cuMemAlloc_v2(&more, (higher - first) / kPage * kPage), CUDA_SUCCESS,
                "what the higher limit adds");
}

}  // namespace
}  // namespace softmig::gpu_test

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Checks checks;
  checks.add("totals", totals);
  checks.add("free_is_true", free_is_true);
  checks.add("nvml_memory", nvml_memory);
  checks.add("process_lists", process_lists);
  checks.add("utilisation_lists", utilisation_lists);
  checks.add("per_device", per_device);
  checks.add("order_of_nvml", order_of_nvml);
  checks.add("live_limit", live_limit);
  checks.add_hidden("_busy", busy);
  checks.add_hidden("_uuids", uuids);
  return checks.run(argc, argv);
}
