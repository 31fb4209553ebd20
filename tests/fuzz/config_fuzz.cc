// Config files: by lines, and whole through the file system as a process reads them.
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/text.h"
#include "fuzz.h"
#include "job/config.h"

using namespace softmig;
using policy::ParseStatus;

namespace {

void check(const policy::Settings& settings) {
  fuzz::must(settings.memory.general <= INT64_MAX && settings.sm.general <= 100);
  for (int i = 0; i < policy::kMaxLimitedDevices; i++) fuzz::must(settings.sm.value[i] <= 100);
  fuzz::must(settings.log_level >= 0 && settings.log_level <= 4);
  fuzz::must(settings.gpu_count >= 0 && settings.gpu_count <= policy::kMaxLimitedDevices);
  fuzz::must(settings.slot_count <= 32 &&
             (uint64_t{settings.slot_mask_lo} >> settings.slot_count) == 0);
  fuzz::must(settings.log_file[sizeof settings.log_file - 1] == '\0');
  fuzz::must(settings.log_file[0] == '\0' || settings.log_file[0] == '/');
}

void read_lines(std::string_view text) {
  policy::Settings settings;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const policy::Settings before = settings;
    const ParseStatus status = policy::parse_line(base::head(text, end), &settings);
    fuzz::must(status == ParseStatus::kOk || settings == before);
    check(settings);
    text = end == std::string_view::npos ? std::string_view{} : base::tail(text, end + 1);
  }
}

// A node whose log directory cannot be written.
struct Node {
  Node() {
    char pattern[] = "/tmp/softmig-fuzz-XXXXXX";
    root = mkdtemp(pattern);
    mkdir((root + "/proc").c_str(), 0755);
    mkdir((root + "/proc/self").c_str(), 0755);
    write("/proc/self/cgroup", "0::/slurm/job_1/step_0\n");
    mkdir(run_dir().c_str(), 0755);
    proc = root + "/proc";
    run = run_dir();
  }
  ~Node() {
    unlink((root + "/run/1.conf").c_str());
    unlink((root + "/proc/self/cgroup").c_str());
    for (const char* name : {"/run", "/proc/self", "/proc", ""}) rmdir((root + name).c_str());
  }
  std::string run_dir() const { return root + "/run"; }
  void write(const std::string& name, std::string_view text) const {
    FILE* file = fopen((root + name).c_str(), "w");
    fwrite(text.data(), 1, text.size(), file);
    fclose(file);
  }
  std::string root, proc, run;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Node node;
  const std::string_view text = fuzz::text_of(data, size);
  read_lines(text);
  node.write("/run/1.conf", text);
  const job::Places places = {node.run.c_str(), node.proc.c_str(), "/nowhere",
                              static_cast<uint32_t>(geteuid())};
  static job::Config config;
  job::load_config(places, &config);
  fuzz::must(config.source == job::Source::kFile || config.source == job::Source::kClosed);
  fuzz::must((config.source == job::Source::kClosed) == (config.error[0] != '\0'));
  fuzz::must(fuzz::is_plain(config.error));
  check(config.settings);
  return 0;
}
