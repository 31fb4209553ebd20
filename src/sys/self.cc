#include "sys/self.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace softmig::sys {
namespace {

constexpr uint64_t bit_of(int signal) { return uint64_t{1} << (signal - 1); }
// A fault whose signal is blocked ends the process, whatever handler it has.
constexpr uint64_t kFaults = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGFPE) |
                             bit_of(SIGTRAP) | bit_of(SIGSYS);

void change_mask(int how, const uint64_t* mask, uint64_t* before) {
  const ErrnoGuard keep_errno;
  syscall(SYS_rt_sigprocmask, how, mask, before, sizeof *mask);
}

}  // namespace

int pid() { return static_cast<int>(syscall(SYS_getpid)); }
uint32_t effective_uid() { return static_cast<uint32_t>(syscall(SYS_geteuid)); }
uint32_t real_uid() { return static_cast<uint32_t>(syscall(SYS_getuid)); }
void yield() { syscall(SYS_sched_yield); }

ErrnoGuard::ErrnoGuard() : saved_(errno) {}
ErrnoGuard::~ErrnoGuard() { errno = saved_; }

SignalBlock::SignalBlock() {
  constexpr uint64_t mask = ~kFaults;
  change_mask(SIG_BLOCK, &mask, &before_);
}
SignalBlock::~SignalBlock() { change_mask(SIG_SETMASK, &before_, nullptr); }

}  // namespace softmig::sys
