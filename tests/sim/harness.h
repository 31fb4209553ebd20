// Tests of the simulated GPU. Every test has a state file of its own and runs in a process of its
// own (main.cc sees to that), since a program initialises its driver once. The figures come from
// NVML, read by the test or by its children, as an unhooked reader sees them.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "abi/cuda.h"
#include "abi/nvml.h"

namespace softmig::sim_test {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;
constexpr double kContextListed = 518;  // MiB, as are the next three
constexpr double kContextUsed = 523.5625;
constexpr double kBaseUsed = 3.25;

// A fresh state file with that geometry, removed in the end.
class SimTest : public testing::Test {
 protected:
  explicit SimTest(const std::string& geometry = "1x80G:h100");
  ~SimTest() override;

  const std::string& state() const { return state_; }
  std::string file(const std::string& name) const { return folder_ + "/" + name; }

 private:
  std::string folder_;
  std::string state_;
};

// With a primary context on device 0, current in this thread.
class ContextTest : public SimTest {
 protected:
  explicit ContextTest(const std::string& geometry = "1x80G:h100") : SimTest(geometry) {}
  void SetUp() override;

  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

// What NVML says, in MiB. Without what the driver keeps for itself.
double used(unsigned int device = 0);
double listed(pid_t pid, unsigned int device = 0);  // 0 if the process is not in the list
unsigned int process_count(unsigned int device = 0);

// The same, less what it was at the mark.
class Marked {
 public:
  Marked() : used_(sim_test::used()), listed_(sim_test::listed(self())) {}
  double used() const { return sim_test::used() - used_; }
  double listed() const { return sim_test::listed(self()) - listed_; }

 private:
  static pid_t self();
  double used_;
  double listed_;
};

// cuInit and a primary context in this process.
CUresult start(CUdevice ordinal = 0, CUcontext* context = nullptr);

// A forked child that runs `body` and ends with its result; talks to us through a socket.
class Child {
 public:
  explicit Child(const std::function<int(Child& parent)>& body);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void kill();
  int wait();  // exit status, or 128 + the signal

  // Either side. A second without an answer fails the test.
  void say(uint64_t value);
  uint64_t hear();
  void send_fd(int fd);
  int receive_fd();
  template <class T>
  void send(const T& value) {
    send_bytes(&value, sizeof value);
  }
  template <class T>
  T receive() {
    T value;
    receive_bytes(&value, sizeof value);
    return value;
  }

 private:
  Child(int socket, pid_t pid) : socket_(socket), pid_(pid) {}
  void send_bytes(const void* data, size_t bytes);
  void receive_bytes(void* data, size_t bytes);

  int socket_ = -1;
  pid_t pid_ = -1;
};

void sleep_ms(double ms);
double now_ms();

// `run` says how long something took, in ms. It must never take less than `ms`, and not much more
// in the best of three tries: the machine may be busy.
void expect_takes(double ms, const std::function<double()>& run);
// The same for what `body` takes.
void expect_lasts(double ms, const std::function<void()>& body);

// PTX with an array of that many bytes and the kernels spin_us(u32) and k(u64).
std::string ptx_with_array(uint64_t bytes);

#define EXPECT_CUDA(call) EXPECT_EQ(call, CUDA_SUCCESS)
#define ASSERT_CUDA(call) ASSERT_EQ(call, CUDA_SUCCESS)

}  // namespace softmig::sim_test
