#include "common/gpu.h"

#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace softmig::gpu_test {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

}  // namespace

double now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

void sleep_ms(double ms) {
  timespec t{};
  t.tv_sec = static_cast<time_t>(ms / 1e3);
  t.tv_nsec = static_cast<long>((ms - static_cast<double>(t.tv_sec) * 1e3) * 1e6);
  nanosleep(&t, nullptr);
}

uint64_t parse_size(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return 0;
  const std::string_view unit(end, text.data() + text.size() - end);
  if (unit.empty()) return value;
  if (unit == "K") return value * kKiB;
  if (unit == "M") return value * kMiB;
  if (unit == "G") return value * kGiB;
  return 0;
}

std::string error_name(const Driver& driver, CUresult code) {
  const char* name = nullptr;
  if (driver.cuGetErrorName == nullptr || driver.cuGetErrorName(code, &name) != CUDA_SUCCESS ||
      name == nullptr) {
    return "error " + std::to_string(static_cast<int>(code));
  }
  return name;
}

Line::Line(std::string_view what) : text_("{\"what\":" + quoted(what)) {}

Line& Line::put(std::string_view key, std::string_view value) {
  text_ += ',';
  text_ += quoted(key);
  text_ += ':';
  text_ += value;
  return *this;
}

Line& Line::add(std::string_view key, std::string_view value) { return put(key, quoted(value)); }
Line& Line::add(std::string_view key, bool value) { return put(key, value ? "true" : "false"); }
Line& Line::add(std::string_view key, int64_t value) { return put(key, std::to_string(value)); }
Line& Line::add(std::string_view key, uint64_t value) { return put(key, std::to_string(value)); }

Line& Line::add(std::string_view key, double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.15g", value);
  return put(key, digits);
}

void Line::print() const {
  std::printf("%s}\n", text_.c_str());
  std::fflush(stdout);
}

CUresult Session::open(const Lookup& lookup, int ordinal, std::string* step) {
  if (!load_driver(lookup, &driver, step)) return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
  *step = "cuInit";
  if (CUresult code = driver.cuInit(0)) return code;
  *step = "cuDeviceGet";
  if (CUresult code = driver.cuDeviceGet(&device, ordinal)) return code;
  *step = "cuDevicePrimaryCtxRetain";
  if (CUresult code = driver.cuDevicePrimaryCtxRetain(&context, device)) return code;
  *step = "cuCtxSetCurrent";
  return driver.cuCtxSetCurrent(context);
}

uint64_t Session::free_bytes() const {
  size_t free = 0, total = 0;
  return driver.cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS ? free : 0;
}

uint64_t Session::total_bytes() const {
  size_t free = 0, total = 0;
  return driver.cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS ? total : 0;
}

uint64_t takable(uint64_t free) {
  constexpr uint64_t kPage = 2 * kMiB, kMostOfASlice = 7 * kGiB;
  return free <= kMostOfASlice ? free / kPage * kPage : 0;
}

bool Checks::Report::expect(bool good, std::string_view what) {
  if (!good && outcome_ != Outcome::kFailed) {
    outcome_ = Outcome::kFailed;
    text_ = what;
  }
  return good;
}

bool Checks::Report::result(CUresult got, CUresult want, std::string_view what) {
  return expect(got == want, std::string(what) + " gave " + std::to_string(got) + ", expected " +
                                 std::to_string(want));
}

bool Checks::Report::equal(uint64_t got, uint64_t want, std::string_view what) {
  const auto difference = static_cast<int64_t>(got - want);
  return expect(got == want, std::string(what) + " is " + std::to_string(got) + ", expected " +
                                 std::to_string(want) + " (" + std::to_string(difference) + ")");
}

void Checks::Report::skip(std::string_view why) {
  if (outcome_ != Outcome::kPassed) return;
  outcome_ = Outcome::kSkipped;
  text_ = why;
}

void Checks::Report::note(std::string_view key, double value) {
  notes_.emplace_back(std::string(key), value);
}

Checks::Outcome Checks::run_one(const Check& check) {
  Report report;
  const double start = now_ms();
  check.body(report);
  Line line("check");
  line.add("name", check.name).add("ms", now_ms() - start);
  line.add("ok", report.outcome_ != Outcome::kFailed);
  if (report.outcome_ == Outcome::kSkipped) line.add("skipped", true);
  if (!report.text_.empty()) line.add("text", report.text_);
  for (const auto& [key, value] : report.notes_) line.add(key, value);
  line.print();
  return report.outcome_;
}

int Checks::run_all(const char* program) const {
  int failed = 0;
  for (const auto& check : list_) {
    if (check.hidden) continue;
    const pid_t pid = fork();
    if (pid == 0) {
      execl("/proc/self/exe", program, check.name.c_str(), nullptr);
      _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    const bool good =
        WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == kExitSkipped);
    if (WIFSIGNALED(status))
      Line("check")
          .add("name", check.name)
          .add("ok", false)
          .add("signal", WTERMSIG(status))
          .print();
    failed += !good;
  }
  return failed == 0 ? 0 : 1;
}

int Checks::run(int argc, char** argv) const {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  if (wanted.empty()) return run_all(argv[0]);
  for (const auto& check : list_) {
    if (wanted == "--list" && !check.hidden) std::printf("%s\n", check.name.c_str());
    if (wanted != check.name) continue;
    const Outcome outcome = run_one(check);
    return outcome == Outcome::kFailed ? 1 : outcome == Outcome::kSkipped ? kExitSkipped : 0;
  }
  if (wanted == "--list") return 0;
  std::fprintf(stderr, "no such check; try --list\n");
  return 2;
}

}  // namespace softmig::gpu_test
