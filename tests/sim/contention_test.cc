// Processes that share a device: who gets how much of it, seen by `softmig-sim busy`. The shares
// follow from the schedule, so a busy machine does not change them; only where something has to
// happen on the host in time, there is a second try.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

constexpr unsigned int kFull = 264;  // blocks that fill the H100
constexpr const char* kPtx =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry spin_us(.param .u32 us){ ret; }\n"
    ".visible .entry softmig_work(.param .u64 iterations, .param .u64 sink){ ret; }\n";

// A program with a context and a kernel.
struct Program {
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction work = nullptr;
  CUstream stream = nullptr;

  bool start() {
    return sim_test::start(0, &context) == CUDA_SUCCESS &&
           cuModuleLoadData(&module, kPtx) == CUDA_SUCCESS &&
           cuModuleGetFunction(&work, module, "softmig_work") == CUDA_SUCCESS &&
           cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS;
  }
  CUresult launch(uint64_t us, CUstream on, unsigned int blocks = kFull) const {
    uint64_t iterations = us * 1000, sink = 0;
    void* params[] = {&iterations, &sink};
    return cuLaunchKernel(work, blocks, 1, 1, 256, 1, 1, 0, on, params, nullptr);
  }
  CUresult launch(uint64_t us) const { return launch(us, stream); }
};

// A child that launches kernels of that length until it is killed, once it is told to begin. A
// program that has a driver cannot fork one that uses it.
std::unique_ptr<Child> make_hungry(uint64_t us) {
  return std::make_unique<Child>([us](Child& parent) {
    Program program;
    if (parent.hear() != 1 || !program.start()) return 1;
    for (uint64_t i = 0; program.launch(us) == CUDA_SUCCESS; ++i) {
      if (i == 100) parent.say(1);
    }
    return 2;
  });
}

void let_go(Child& hungry) {
  hungry.say(1);
  EXPECT_EQ(hungry.hear(), 1u);
}

std::unique_ptr<Child> hungry(uint64_t us) {
  auto child = make_hungry(us);
  let_go(*child);
  return child;
}

struct Figures {
  double at_ms = 0;
  double device_busy_ms = 0;
  double switches = 0;
  struct Process {
    double busy_ms = 0, work_ms = 0, kernels = 0;
    std::string state;
  };
  std::map<pid_t, Process> processes;
};

// What softmig-sim says of device 0.
Figures busy() {
  Figures figures;
  FILE* tool = popen(SIM_SHOW " busy", "r");
  for (char line[1024]; tool != nullptr && fgets(line, sizeof line, tool) != nullptr;) {
    std::istringstream in(line);
    std::string what, key;
    long id = 0, device = 0;
    in >> what >> id;
    if (what == "device" && id == 0) {
      in >> key >> figures.at_ms >> key >> figures.device_busy_ms >> key >> figures.switches;
    } else if (what == "process" && in >> key >> device && device == 0) {
      Figures::Process& process = figures.processes[static_cast<pid_t>(id)];
      in >> key >> process.busy_ms >> key >> process.work_ms >> key >> process.kernels >>
          process.state;
    }
  }
  EXPECT_TRUE(tool != nullptr && pclose(tool) == 0);
  return figures;
}

// Percent of the device that a process had between two looks.
double share(const Figures& from, const Figures& to, pid_t pid) {
  const auto before = from.processes.find(pid), after = to.processes.find(pid);
  const double had = before == from.processes.end() ? 0 : before->second.busy_ms;
  return after == to.processes.end()
             ? 0
             : (after->second.busy_ms - had) * 100 / (to.at_ms - from.at_ms);
}

class ContentionTest : public SimTest {
 protected:
  // Shares of those children over that time.
  std::vector<double> shares(const std::vector<std::unique_ptr<Child>>& children, double ms) {
    const Figures from = busy();
    sleep_ms(ms);
    const Figures to = busy();
    std::vector<double> result;
    for (const auto& child : children) result.push_back(share(from, to, child->pid()));
    return result;
  }
};

TEST_F(ContentionTest, FourHungryProcessesShareEquallyAndLoseWhatSwitchingCosts) {
  const struct {
    uint64_t us;
    double sum;
  } rows[] = {{200, 90}, {20000, 96}};
  for (const auto& row : rows) {
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < 4; ++i) children.push_back(hungry(row.us));
    double sum = 0;
    for (double one : shares(children, 1500)) {
      EXPECT_NEAR(one, row.sum / 4, 1) << row.us;
      sum += one;
    }
    EXPECT_NEAR(sum, row.sum, 2) << row.us;
  }
}

TEST_F(ContentionTest, WhoHasNoWorkTakesNothing) {
  std::vector<std::unique_ptr<Child>> children;
  children.push_back(hungry(200));
  Child idle([](Child& parent) {
    Program program;
    if (!program.start()) return 1;
    parent.say(1);
    return static_cast<int>(parent.hear());
  });
  ASSERT_EQ(idle.hear(), 1u);
  EXPECT_GE(shares(children, 500)[0], 99.5);
}

TEST_F(ContentionTest, NvmlShowsWhatEachGets) {
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 2; ++i) children.push_back(hungry(200));
  sleep_ms(800);
  nvmlDevice_t card = nullptr;
  nvmlUtilization_t rates{};
  ASSERT_EQ(nvmlInit_v2(), NVML_SUCCESS);
  ASSERT_EQ(nvmlDeviceGetHandleByIndex_v2(0, &card), NVML_SUCCESS);
  ASSERT_EQ(nvmlDeviceGetUtilizationRates(card, &rates), NVML_SUCCESS);
  EXPECT_NEAR(rates.gpu, 90, 3);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const auto since = static_cast<unsigned long long>(now.tv_sec) * 1000000 +
                     static_cast<unsigned long long>(now.tv_nsec) / 1000 - 400000;
  std::vector<nvmlProcessUtilizationSample_t> samples(100);
  auto count = static_cast<unsigned int>(samples.size());
  ASSERT_EQ(nvmlDeviceGetProcessUtilization(card, samples.data(), &count, since), NVML_SUCCESS);
  ASSERT_EQ(count, 2u);
  EXPECT_NEAR(samples[0].smUtil, 45, 3);
  EXPECT_NEAR(samples[1].smUtil, 45, 3);
}

TEST_F(ContentionTest, TheDeadLeaveTheRestToTheOthers) {
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 3; ++i) children.push_back(hungry(i == 0 ? 100000 : 500));
  EXPECT_NEAR(shares(children, 500)[1], 30, 3);
  const pid_t dead = children[0]->pid();
  children[0]->kill();
  children.erase(children.begin());
  sleep_ms(50);
  for (double one : shares(children, 1000)) EXPECT_NEAR(one, 45, 1.5);
  EXPECT_EQ(busy().processes[dead].state, "ended");
  children[0]->kill();
  children.erase(children.begin());
  sleep_ms(50);
  EXPECT_GE(shares(children, 500)[0], 99);
}

TEST_F(ContentionTest, WhoeverWaitsFindsTheDead) {
  Child neighbour([](Child& parent) {
    Program program;
    if (!program.start()) return 1;
    for (int i = 0; i < 100; ++i) program.launch(100000);
    parent.say(1);
    return static_cast<int>(parent.hear());
  });
  ASSERT_EQ(neighbour.hear(), 1u);
  Program program;
  ASSERT_TRUE(program.start());
  const double begin = now_ms();
  ASSERT_CUDA(program.launch(1000000));
  neighbour.kill();
  ASSERT_CUDA(cuStreamSynchronize(program.stream));
  EXPECT_GE(now_ms() - begin, 1000);
  EXPECT_LT(now_ms() - begin, 1500) << "alone it takes 1000, beside the other 2070";
}

TEST_F(ContentionTest, WorkOfAStoppedProcessGoesOn) {
  std::vector<std::unique_ptr<Child>> children;
  children.push_back(std::make_unique<Child>([](Child& parent) {
    Program program;
    if (!program.start()) return 1;
    for (int i = 0; i < 100; ++i) program.launch(20000);
    parent.say(1);
    return static_cast<int>(parent.hear());
  }));
  ASSERT_EQ(children[0]->hear(), 1u);
  ASSERT_EQ(kill(children[0]->pid(), SIGSTOP), 0);
  EXPECT_GE(shares(children, 300)[0], 99);
  children.push_back(hungry(200));
  EXPECT_NEAR(shares(children, 500)[0], 46.5, 3);
}

TEST_F(ContentionTest, APreemptedIntervalIsLonger) {
  const auto neighbour = make_hungry(200);
  Program program;
  ASSERT_TRUE(program.start());
  CUevent begin = nullptr, end = nullptr;
  ASSERT_CUDA(cuEventCreate(&begin, 0));
  ASSERT_CUDA(cuEventCreate(&end, 0));
  const auto take = [&] {
    float ms = 0;
    EXPECT_CUDA(cuEventRecord(begin, program.stream));
    EXPECT_CUDA(program.launch(20000));
    EXPECT_CUDA(cuEventRecord(end, program.stream));
    EXPECT_CUDA(cuEventSynchronize(end));
    EXPECT_CUDA(cuEventElapsedTime(&ms, begin, end));
    return ms;
  };
  expect_takes(20, take);
  let_go(*neighbour);
  // Ten slices of its own; between them nine of the other's, with two switches each.
  for (int i = 0; i < 3; ++i) {
    const float ms = take();
    EXPECT_GT(ms, 36);
    EXPECT_LT(ms, 42);
  }
}

TEST_F(ContentionTest, SmallGridsOfTwoStreamsOverlap) {
  Program program;
  ASSERT_TRUE(program.start());
  CUstream other = nullptr;
  ASSERT_CUDA(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  const auto both = [&](unsigned int blocks) {
    expect_lasts(blocks == kFull ? 80 : 40, [&] {
      EXPECT_CUDA(program.launch(40000, program.stream, blocks));
      EXPECT_CUDA(program.launch(40000, other, blocks));
      EXPECT_CUDA(cuCtxSynchronize());
    });
  };
  both(kFull / 2);
  both(kFull);
}

TEST_F(ContentionTest, ContextsOfOneProcessTakeTurnsToo) {
  Program program;
  ASSERT_TRUE(program.start());
  CUcontext second = nullptr;
  CUmodule module = nullptr;
  CUfunction work = nullptr;
  ASSERT_CUDA(cuCtxCreate_v2(&second, 0, 0));
  ASSERT_CUDA(cuModuleLoadData(&module, kPtx));
  ASSERT_CUDA(cuModuleGetFunction(&work, module, "softmig_work"));
  uint64_t iterations = 50'000'000, sink = 0;
  void* params[] = {&iterations, &sink};
  expect_lasts(100, [&] {
    EXPECT_CUDA(cuLaunchKernel(work, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr));
    EXPECT_CUDA(cuCtxPushCurrent_v2(program.context));
    EXPECT_CUDA(program.launch(50000, program.stream, 1));
    EXPECT_CUDA(cuCtxSynchronize());
    EXPECT_CUDA(cuCtxPopCurrent_v2(nullptr));
    EXPECT_CUDA(cuCtxSynchronize());
  });
  EXPECT_CUDA(cuCtxDestroy_v2(second));
}

TEST_F(ContentionTest, ALaunchOnSeveralDevicesNeedsNoCurrentContext) {
  Program program;
  ASSERT_TRUE(program.start());
  ASSERT_CUDA(cuCtxSetCurrent(nullptr));
  uint64_t iterations = 1000, sink = 0;
  void* params[] = {&iterations, &sink};
  CUDA_LAUNCH_PARAMS launch{};
  launch.function = program.work;
  launch.gridDimX = launch.gridDimY = launch.gridDimZ = 1;
  launch.blockDimX = launch.blockDimY = launch.blockDimZ = 1;
  launch.hStream = program.stream;
  launch.kernelParams = params;
  EXPECT_CUDA(cuLaunchCooperativeKernelMultiDevice(&launch, 1, 0));
}

TEST_F(ContentionTest, ParallelKernelsOfAGraphShareTheDevice) {
  Program program;
  ASSERT_TRUE(program.start());
  for (unsigned int blocks : {kFull / 2, kFull}) {
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    uint64_t iterations = 40'000'000, sink = 0;
    void* params[] = {&iterations, &sink};
    CUDA_KERNEL_NODE_PARAMS kernel{};
    kernel.func = program.work;
    kernel.gridDimX = blocks;
    kernel.gridDimY = kernel.gridDimZ = kernel.blockDimX = kernel.blockDimY = kernel.blockDimZ = 1;
    kernel.kernelParams = params;
    ASSERT_CUDA(cuGraphCreate(&graph, 0));
    for (int i = 0; i < 2; ++i) {
      CUgraphNode node = nullptr;
      ASSERT_CUDA(cuGraphAddKernelNode_v2(&node, graph, nullptr, 0, &kernel));
    }
    ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
    expect_lasts(blocks == kFull ? 80 : 40, [&] {
      EXPECT_CUDA(cuGraphLaunch(exec, program.stream));
      EXPECT_CUDA(cuStreamSynchronize(program.stream));
    });
  }
}

TEST_F(ContentionTest, HostFunctionsOfAGraphRunInTheirTurn) {
  const auto neighbour = hungry(200);
  Program program;
  ASSERT_TRUE(program.start());
  static double called = 0;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  ASSERT_CUDA(cuStreamBeginCapture_v2(program.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_CUDA(program.launch(50000));
  ASSERT_CUDA(cuLaunchHostFunc(
      program.stream, [](void*) { called = now_ms(); }, nullptr));
  ASSERT_CUDA(program.launch(50000));
  ASSERT_CUDA(cuStreamEndCapture(program.stream, &graph));
  ASSERT_CUDA(cuGraphInstantiateWithFlags(&exec, graph, 0));
  const double begin = now_ms();
  ASSERT_CUDA(cuGraphLaunch(exec, program.stream));
  ASSERT_CUDA(cuStreamSynchronize(program.stream));
  const double end = now_ms();
  EXPECT_GT(called - begin, 90) << "half of the device at most";
  EXPECT_GT(end - called, 60);
  EXPECT_GT(end - begin, 190);
}

TEST_F(ContentionTest, AFullQueueHoldsTheLaunchBack) {
  Program program;
  ASSERT_TRUE(program.start());
  const double begin = now_ms();
  for (int i = 0; i < 1000; ++i) ASSERT_CUDA(program.launch(1000));
  EXPECT_LT(now_ms() - begin, 500);
  for (int i = 0; i < 1000; ++i) ASSERT_CUDA(program.launch(1000));
  EXPECT_GT(now_ms() - begin, 950) << "no more than about 1024 are in the queue";
  EXPECT_LT(now_ms() - begin, 1700);
  ASSERT_CUDA(cuStreamSynchronize(program.stream));
  EXPECT_GT(now_ms() - begin, 2000);
}

TEST_F(ContentionTest, EventsKeepTheirTimeWhenTheQueueHasMovedOn) {
  Program program;
  ASSERT_TRUE(program.start());
  CUevent events[3] = {};
  for (CUevent& event : events) ASSERT_CUDA(cuEventCreate(&event, 0));
  ASSERT_CUDA(cuEventRecord(events[0], program.stream));
  ASSERT_CUDA(program.launch(3000));
  ASSERT_CUDA(cuEventRecord(events[1], program.stream));
  for (int i = 0; i < 5000; ++i) ASSERT_CUDA(program.launch(10));
  ASSERT_CUDA(cuEventRecord(events[2], program.stream));
  ASSERT_CUDA(cuStreamSynchronize(program.stream));
  float first = 0, all = 0;
  ASSERT_CUDA(cuEventElapsedTime(&first, events[0], events[1]));
  ASSERT_CUDA(cuEventElapsedTime(&all, events[0], events[2]));
  EXPECT_GE(first, 3);
  EXPECT_LT(first, 30);
  EXPECT_GE(all, 53);
}

TEST_F(ContentionTest, MoreStreamsThanLanesStillRunInOrder) {
  Program program;
  ASSERT_TRUE(program.start());
  std::vector<CUstream> streams(100);
  std::vector<CUevent> events(streams.size());
  const double begin = now_ms();
  for (size_t i = 0; i < streams.size(); ++i) {
    ASSERT_CUDA(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
    ASSERT_CUDA(cuEventCreate(&events[i], 0));
    if (i > 0) {
      ASSERT_CUDA(cuStreamWaitEvent(streams[i], events[i - 1], 0));
    }
    ASSERT_CUDA(program.launch(1000, streams[i], 1));
    ASSERT_CUDA(cuEventRecord(events[i], streams[i]));
  }
  ASSERT_CUDA(cuStreamSynchronize(streams.back()));
  EXPECT_GE(now_ms() - begin, 100);
  float ms = 0;
  ASSERT_CUDA(cuEventElapsedTime(&ms, events[0], events.back()));
  EXPECT_GE(ms, 99);
}

double cpu_percent(double ms, const std::function<void()>& end) {
  rusage before{}, after{};
  getrusage(RUSAGE_CHILDREN, &before);
  end();
  getrusage(RUSAGE_CHILDREN, &after);
  const auto seconds = [](const rusage& usage) {
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  };
  return (seconds(after) - seconds(before)) * 1e5 / ms;
}

// Four programs that wait at full queues, or for each kernel.
TEST_F(ContentionTest, WaitingCostsTheHostLittle) {
  constexpr double kMs = 1000;
  const struct {
    uint64_t us;
    bool each;
    double percent;  // of a core, for each program
  } rows[] = {{200, false, 10}, {20, false, 10}, {200, true, 10}, {20000, true, 2}};
  for (const auto& row : rows) {
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < 4; ++i) {
      children.push_back(std::make_unique<Child>([row](Child& parent) {
        Program program;
        if (!program.start()) return 1;
        parent.say(1);
        while (program.launch(row.us) == CUDA_SUCCESS) {
          if (row.each) cuStreamSynchronize(program.stream);
        }
        return 2;
      }));
    }
    for (auto& child : children) ASSERT_EQ(child->hear(), 1u);
    sleep_ms(kMs);
    const double percent = cpu_percent(kMs, [&] { children.clear(); }) / 4;
    EXPECT_LT(percent, row.percent) << row.us << (row.each ? " us, each" : " us, queued");
    std::printf("host: %.1f %% of a core\n", percent);
  }
}

// Processes are killed at any instant, with the schedule half changed.
TEST_F(ContentionTest, WhoeverDiesTheScheduleGoesOn) {
  std::mt19937 random(5);
  std::vector<std::unique_ptr<Child>> children;
  for (int i = 0; i < 120; ++i) {
    children.push_back(std::make_unique<Child>([i](Child& parent) {
      Program program;
      if (!program.start()) return 1;
      CUstream other = nullptr;
      CUevent event = nullptr;
      cuStreamCreate(&other, 0);
      cuEventCreate(&event, 0);
      parent.say(1);
      for (std::mt19937 dice(static_cast<unsigned int>(i));;) {
        program.launch(dice() % 50, dice() % 2 == 0 ? other : program.stream, dice() % 300 + 1);
        cuEventRecord(event, other);
        if (dice() % 4 == 0) cuStreamWaitEvent(program.stream, event, 0);
        if (dice() % 16 == 0) cuStreamQuery(other);
        if (dice() % 64 == 0) program.launch(5, nullptr);
      }
    }));
    ASSERT_EQ(children.back()->hear(), 1u);
    if (children.size() < 3) continue;
    sleep_ms(random() % 5);
    children.erase(children.begin());
  }
  children.clear();
  children.push_back(make_hungry(200));
  Program program;
  ASSERT_TRUE(program.start());
  expect_lasts(20, [&] {
    EXPECT_CUDA(program.launch(20000));
    EXPECT_CUDA(cuStreamSynchronize(program.stream));
  });
  EXPECT_EQ(used(), kBaseUsed + kContextUsed);
  let_go(*children[0]);
  EXPECT_GE(shares(children, 300)[0], 99);
}

}  // namespace
}  // namespace softmig::sim_test
