// Two processes of one test: a child that runs on its own, and a channel between the two that also
// carries file descriptors.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace softmig::gpu_test {

// A connected pair of stream ends. Every call retries on EINTR; false means that the other side has
// gone or did not answer within a minute.
class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel();
  bool send(const void* data, size_t bytes);
  bool receive(void* data, size_t bytes);
  bool send_fd(int fd);
  int receive_fd();  // -1 on failure
  template <class T>
  bool put(const T& value) {
    return send(&value, sizeof value);
  }
  template <class T>
  bool get(T* value) {
    return receive(value, sizeof *value);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Forks before anything of CUDA was called in this process. The child runs `body` and leaves with
// its return value through _exit.
class Child {
 public:
  explicit Child(const std::function<int(Channel&)>& body);
  ~Child();  // kills a child that still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Channel& channel() { return *channel_; }
  pid_t pid() const { return pid_; }
  // Exit status, -1 if it died by a signal or did not end within `timeout_ms` (then it is killed).
  int wait(double timeout_ms = 60000);
  void kill();

 private:
  pid_t pid_ = -1;
  std::unique_ptr<Channel> channel_;
};

}  // namespace softmig::gpu_test
