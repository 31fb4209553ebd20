#include "sys/self.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace softmig::sys {

int pid() { return static_cast<int>(syscall(SYS_getpid)); }
int thread_id() { return static_cast<int>(syscall(SYS_gettid)); }
uint32_t effective_uid() { return static_cast<uint32_t>(syscall(SYS_geteuid)); }
uint32_t real_uid() { return static_cast<uint32_t>(syscall(SYS_getuid)); }
void yield() { syscall(SYS_sched_yield); }

ErrnoGuard::ErrnoGuard() : saved_(errno) {}
ErrnoGuard::~ErrnoGuard() { errno = saved_; }

}  // namespace softmig::sys
