#include "harness.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

namespace softmig::sim_test {
namespace {

constexpr int kPatienceMs = 20000;

double mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

nvmlDevice_t card(unsigned int index) {
  static const nvmlReturn_t started = nvmlInit_v2();
  nvmlDevice_t device = nullptr;
  if (started == NVML_SUCCESS) nvmlDeviceGetHandleByIndex_v2(index, &device);
  return device;
}

std::vector<nvmlProcessInfo_t> processes(unsigned int device) {
  std::vector<nvmlProcessInfo_t> list(256);
  auto count = static_cast<unsigned int>(list.size());
  const nvmlReturn_t code =
      nvmlDeviceGetComputeRunningProcesses_v3(card(device), &count, list.data());
  EXPECT_EQ(code, NVML_SUCCESS);
  list.resize(code == NVML_SUCCESS ? count : 0);
  return list;
}

}  // namespace

SimTest::SimTest(const std::string& geometry) {
  char path[] = "/tmp/softmig-sim-test.XXXXXX";
  folder_ = mkdtemp(path);
  state_ = folder_ + "/state";
  setenv("SOFTMIG_SIM_STATE", state_.c_str(), 1);
  setenv("SOFTMIG_SIM", geometry.c_str(), 1);
  for (const char* name : {"SOFTMIG_SIM_FAULT", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
    unsetenv(name);
}

SimTest::~SimTest() { std::filesystem::remove_all(folder_); }

void ContextTest::SetUp() {
  ASSERT_CUDA(start(0, &context_));
  ASSERT_CUDA(cuDeviceGet(&device_, 0));
}

double used(unsigned int device) {
  nvmlMemory_v2_t memory{};
  memory.version = nvmlMemory_v2;
  EXPECT_EQ(nvmlDeviceGetMemoryInfo_v2(card(device), &memory), NVML_SUCCESS);
  return mib(memory.used);
}

double listed(pid_t pid, unsigned int device) {
  for (const nvmlProcessInfo_t& process : processes(device)) {
    if (static_cast<pid_t>(process.pid) == pid) return mib(process.usedGpuMemory);
  }
  return 0;
}

unsigned int process_count(unsigned int device) {
  return static_cast<unsigned int>(processes(device).size());
}

pid_t Marked::self() { return getpid(); }

CUresult start(CUdevice ordinal, CUcontext* context) {
  CUcontext made = nullptr;
  if (const CUresult code = cuInit(0)) return code;
  if (const CUresult code = cuDevicePrimaryCtxRetain(&made, ordinal)) return code;
  if (context != nullptr) *context = made;
  return cuCtxSetCurrent(made);
}

Child::Child(const std::function<int(Child&)>& body) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  fflush(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    Child parent(ends[1], -1);
    const int status = body(parent);
    fflush(nullptr);
    _exit(testing::Test::HasFailure() && status == 0 ? 1 : status);
  }
  close(ends[1]);
  socket_ = ends[0];
}

Child::~Child() {
  kill();
  close(socket_);
}

void Child::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int Child::wait() {
  if (pid_ <= 0) return -1;
  int status = 0;
  for (int waited = 0; waitpid(pid_, &status, WNOHANG) == 0; ++waited) {
    if (waited >= kPatienceMs) {
      ADD_FAILURE() << "the child does not end";
      kill();
      return -1;
    }
    sleep_ms(1);
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void Child::send_bytes(const void* data, size_t bytes) {
  EXPECT_EQ(::send(socket_, data, bytes, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
}

void Child::receive_bytes(void* data, size_t bytes) {
  std::memset(data, 0, bytes);
  pollfd input{socket_, POLLIN, 0};
  EXPECT_EQ(poll(&input, 1, kPatienceMs), 1) << "no answer from the other process";
  EXPECT_EQ(recv(socket_, data, bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
}

void Child::say(uint64_t value) { send(value); }

uint64_t Child::hear() { return receive<uint64_t>(); }

void Child::send_fd(int fd) {
  char byte = 1;
  iovec io{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  EXPECT_EQ(sendmsg(socket_, &message, MSG_NOSIGNAL), 1);
}

int Child::receive_fd() {
  pollfd input{socket_, POLLIN, 0};
  EXPECT_EQ(poll(&input, 1, kPatienceMs), 1) << "no descriptor from the other process";
  char byte = 0;
  iovec io{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  int fd = -1;
  EXPECT_EQ(recvmsg(socket_, &message, 0), 1);
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message))
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

void sleep_ms(double ms) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(ms / 1e3);
  time.tv_nsec = static_cast<long>((ms - static_cast<double>(time.tv_sec) * 1e3) * 1e6);
  nanosleep(&time, nullptr);
}

double now_ms() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

void expect_takes(double ms, const std::function<double()>& run) {
  constexpr double kLittle = 0.5, kMuch = 25;
  double took = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    took = run();
    ASSERT_GE(took, ms - kLittle);
    if (took < ms + kMuch) return;
  }
  ADD_FAILURE() << "took " << took << " ms, expected " << ms;
}

void expect_lasts(double ms, const std::function<void()>& body) {
  expect_takes(ms, [&] {
    const double begin = now_ms();
    body();
    return now_ms() - begin;
  });
}

std::string ptx_with_array(uint64_t bytes) {
  return ".version 7.0\n.target sm_70\n.address_size 64\n"
         "// .global .u32 not_this[4];\n"
         ".visible .global .align 1 .b8 big[" +
         std::to_string(bytes) +
         "];\n"
         ".visible .entry spin_us(.param .u32 us){ ret; }\n"
         ".visible .entry k(.param .u64 p){ ret; }\n";
}

}  // namespace softmig::sim_test
