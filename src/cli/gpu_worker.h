// A process that uses CUDA for us: `softmig gpu-worker`, which does one request a line on its
// standard input and answers with one line. It is a process of its own because CUDA never lets go
// of what it took until the process ends, and because the demo kills it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace softmig::cli {

struct GpuAnswer {
  bool ok = false;
  int code = 0;      // CUresult, or -1 if the process is gone
  std::string text;  // name of the code, or what went wrong
  std::vector<uint64_t> numbers;
};

// The other end of a gpu-worker's pipes.
class GpuWorker {
 public:
  // Starts `softmig gpu-worker` in this process's environment. Throws Failure.
  static std::unique_ptr<GpuWorker> start();
  // Takes over both ends of the pipes of a worker that somebody else starts.
  GpuWorker(int requests, int answers);
  // Ends the worker by ending its input, and waits for it if start() made it.
  ~GpuWorker();
  GpuWorker(const GpuWorker&) = delete;
  GpuWorker& operator=(const GpuWorker&) = delete;

  // Waits for the worker's first line. False if it ended instead.
  bool greet();
  pid_t pid() const { return pid_; }  // after greet

  // Makes the device with this UUID ("GPU-...") current, with its primary context.
  GpuAnswer open(const std::string& uuid) { return ask("open " + uuid); }
  // cuInit alone.
  GpuAnswer init() { return ask("init"); }
  // Loads a small module and runs its kernel once.
  GpuAnswer launch() { return ask("launch"); }
  GpuAnswer allocate(uint64_t bytes) { return ask("alloc " + std::to_string(bytes)); }
  // Frees what allocate took.
  GpuAnswer free_all() { return ask("free"); }
  // numbers: cuMemGetInfo's free and total, cuDeviceTotalMem.
  GpuAnswer info() { return ask("info"); }

 private:
  GpuAnswer ask(const std::string& request);

  std::FILE* requests_;
  std::FILE* answers_;
  pid_t pid_ = -1, child_ = -1;
};

}  // namespace softmig::cli
