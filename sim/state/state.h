// This process's view of the state file: opening and making it, its lock, its processes.
#pragma once

#include <cstdint>
#include <string>

#include "state/layout.h"

namespace softmig::sim {

struct Settings;

// Path of the state file: SOFTMIG_SIM_STATE, or /tmp/softmig-sim.UID.
std::string state_path();

class State {
 public:
  // The process's one view; opened, and the file made if need be, at the first call. Null, with a
  // text, if that fails; the next call tries again.
  static State* open(std::string* error);

  StateFile& file() { return *file_; }
  const StateFile& file() const { return *file_; }
  const std::string& path() const { return path_; }
  int device_count() const { return static_cast<int>(file_->device_count); }

  // Holds the file's mutex. Finds a state that is whole, whoever died with it.
  class Guard {
   public:
    explicit Guard(State* state);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    State* state_;
  };

  // Everything below needs the Guard.

  // Frees what dead processes held and drops objects that nobody holds. True if it found any. The
  // quick way does not compare start times, which matters only where a process was forked in the
  // instant in which another thread entered the table.
  enum class Care { kQuick, kThorough };
  bool sweep(Care care);

  // Brings the schedule of the devices to the present; returns its time (CLOCK_MONOTONIC, ns).
  // Looks for dead processes now and then while several want one device.
  uint64_t catch_up();

  // The same, and the figures in Usage and Engine count what runs up to now.
  uint64_t catch_up_figures();

  // Bytes that may still be taken from a device.
  uint64_t available(int device) const;

  // Reserves device memory; looks for dead processes before it refuses.
  bool take(int device, uint64_t bytes);
  void give(int device, uint64_t bytes);

  // Computes DeviceRow::used of every device from the rows.
  void recount();

 private:
  friend int open_state_again(const State& state);
  State(StateFile* file, std::string path, uint64_t device, uint64_t inode)
      : file_(file), path_(std::move(path)), device_(device), inode_(inode) {}
  void recover();
  bool has_dead_workers();

  StateFile* file_;
  std::string path_;
  uint64_t device_;  // of the file, which tells it from one that was made in its place
  uint64_t inode_;
};

// A descriptor of the state file for locks and exports, close-on-exec; -1 if it is gone.
int open_state_again(const State& state);

// Whether anybody holds the lock on one byte. `fd`: from open_state_again.
bool is_locked(int fd, int64_t offset);

}  // namespace softmig::sim
