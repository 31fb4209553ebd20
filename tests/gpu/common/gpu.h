// What every test program needs: a driver with a context, results as JSON lines, sizes, time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/driver.h"

namespace softmig::gpu_test {

inline constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;
inline constexpr int kExitSkipped = 77;

double now_ms();
void sleep_ms(double ms);

// "512", "4K", "2M", "1G" in binary units. 0 if it is not a size.
uint64_t parse_size(std::string_view text);

std::string error_name(const Driver& driver, CUresult code);

// One line of JSON on standard output.
class Line {
 public:
  explicit Line(std::string_view what);
  Line& add(std::string_view key, std::string_view value);
  Line& add(std::string_view key, const char* value) { return add(key, std::string_view(value)); }
  Line& add(std::string_view key, bool value);
  Line& add(std::string_view key, double value);
  Line& add(std::string_view key, int64_t value);
  Line& add(std::string_view key, uint64_t value);
  Line& add(std::string_view key, int value) { return add(key, static_cast<int64_t>(value)); }
  Line& add(std::string_view key, CUresult value) { return add(key, static_cast<int64_t>(value)); }
  void print() const;

 private:
  Line& put(std::string_view key, std::string_view value);
  std::string text_;
};

// A driver with the primary context of one device current in this thread.
struct Session {
  Driver driver;
  CUdevice device = 0;
  CUcontext context = nullptr;

  // Finds the driver, initialises it and retains the primary context. On failure *step says what
  // failed; a closed door is CUDA_ERROR_SHARED_OBJECT_INIT_FAILED.
  CUresult open(const Lookup& lookup, int ordinal, std::string* step);
  // As cuMemGetInfo of the current context says; 0 on error.
  uint64_t free_bytes() const;
  uint64_t total_bytes() const;
};

// Of `free` bytes the part that one request can take: whole pages of 2 MiB. 0 if there is so much
// that no limit can be in force: a test then must not take it all.
uint64_t takable(uint64_t free);

// Named checks: `program NAME` runs one, `program --list` names them, `program` runs all, each in a
// process of its own. A check prints one line of JSON, with the first thing that was not as
// expected.
class Checks {
 public:
  enum class Outcome { kPassed, kFailed, kSkipped };

  class Report {
   public:
    // Records a failure unless `good`; returns `good` so that a check can stop there.
    bool expect(bool good, std::string_view what);
    // As above, for driver calls: *got* must be *want*.
    bool result(CUresult got, CUresult want, std::string_view what);
    // Figures must agree to the byte.
    bool equal(uint64_t got, uint64_t want, std::string_view what);
    void skip(std::string_view why);
    void note(std::string_view key, double value);
    bool is_good() const { return outcome_ != Outcome::kFailed; }
    const std::string& text() const { return text_; }

   private:
    friend class Checks;
    Outcome outcome_ = Outcome::kPassed;
    std::string text_;
    std::vector<std::pair<std::string, double>> notes_;
  };

  using Body = std::function<void(Report&)>;
  void add(std::string_view name, Body body) {
    list_.push_back({std::string(name), std::move(body), false});
  }
  // Runs only when asked for by name: the second program of another check.
  void add_hidden(std::string_view name, Body body) {
    list_.push_back({std::string(name), std::move(body), true});
  }
  int run(int argc, char** argv) const;

 private:
  struct Check {
    std::string name;
    Body body;
    bool hidden;
  };
  static Outcome run_one(const Check& check);
  int run_all(const char* program) const;
  std::vector<Check> list_;
};

}  // namespace softmig::gpu_test
