// The start of the driver, and what every call begins with.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "driver/capture.h"
#include "driver/core.h"
#include "driver/visible.h"
#include "state/faults.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

std::atomic<Driver*> g_driver{nullptr};
std::mutex g_init;

// A page that a forked child finds empty: the driver does not work there.
struct ForkPage {
  std::atomic<uint32_t> parent;
};
ForkPage* g_fork_page = nullptr;

bool make_fork_page() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* at = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || madvise(at, page, MADV_WIPEONFORK) != 0) return false;
  g_fork_page = static_cast<ForkPage*>(at);
  g_fork_page->parent.store(1, std::memory_order_release);
  return true;
}

bool is_forked_child() { return g_fork_page->parent.load(std::memory_order_relaxed) == 0; }

CUresult complain(const std::string& text) {
  std::fprintf(stderr, "simulated GPU: %s\n", text.c_str());
  return CUDA_ERROR_SYSTEM_NOT_READY;
}

void add_device(Driver* made, int index) {
  auto device = std::make_unique<Device>();
  device->ordinal = static_cast<int>(made->devices.size());
  device->index = index;
  device->row = &made->state->file().devices[index];
  made->devices.push_back(std::move(device));
}

CUresult start() {
  std::string error;
  State* state = State::open(&error);
  if (state == nullptr) return complain(error);
  const auto visible =
      visible_devices(state->file(), getenv("CUDA_VISIBLE_DEVICES"), getenv("CUDA_DEVICE_ORDER"));
  if (visible.empty() || is_absent("cuda")) return CUDA_ERROR_NO_DEVICE;
  uint32_t mask = 0;
  for (int index : visible) mask |= 1u << index;
  Process* process = Process::enter(state, mask);
  if (process == nullptr) return complain("no room for one more process in " + state->path());
  if (!make_fork_page()) return complain("no memory");
  auto* made = new Driver();  // lives until the process ends, as its memory on the device does
  made->state = state;
  made->process = process;
  for (int index : visible) add_device(made, index);
  g_driver.store(made, std::memory_order_release);
  return CUDA_SUCCESS;
}

}  // namespace

Driver& driver() { return *g_driver.load(std::memory_order_acquire); }

Call::Call(const char* function, Needs needs) {
  if (has_faults()) {
    if (const auto fault = injected_fault(function)) {
      code_ = static_cast<CUresult>(*fault);
      if (failed()) return;
    }
  }
  if (needs == Needs::kNothing) return;
  Driver* made = g_driver.load(std::memory_order_acquire);
  if (made == nullptr || is_forked_child()) {
    code_ = CUDA_ERROR_NOT_INITIALIZED;
    return;
  }
  lock_ = std::unique_lock(made->lock);
  context_ = current_context();
  if (needs == Needs::kInit) return;
  if (context_ == nullptr)
    code_ = CUDA_ERROR_INVALID_CONTEXT;
  else if (!context_->alive)
    code_ = CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

bool Call::forbidden_in_capture() {
  if (!invalidate_unsafe_captures()) return false;
  code_ = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return true;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuInit(unsigned int flags) {
  Call call(__func__, Needs::kNothing);
  if (call.failed()) return call.code();
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(g_init);
  if (g_driver.load(std::memory_order_acquire) == nullptr) return start();
  return is_forked_child() ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  Call call(__func__, Needs::kNothing);
  if (call.failed()) return call.code();
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = softmig_sim_driver_version;
  return CUDA_SUCCESS;
}
