#include "sys/descriptor_mark.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/self.h"

namespace softmig::sys {
namespace {
constexpr int kSetSignal = 10, kGetSignal = 11;  // F_SETSIG, F_GETSIG
}  // namespace

bool write_mark(int descriptor, uint32_t mark) {
  const ErrnoGuard guard;
  return syscall(SYS_fcntl, descriptor, kSetSignal, mark + 1) == 0 &&
         syscall(SYS_fcntl, descriptor, F_SETOWN, pid()) == 0;
}

bool read_mark(int descriptor, uint32_t* mark, uint32_t* pid) {
  const ErrnoGuard guard;
  const long signal = syscall(SYS_fcntl, descriptor, kGetSignal);
  if (signal <= 0) return false;
  const long owner = syscall(SYS_fcntl, descriptor, F_GETOWN);
  *mark = static_cast<uint32_t>(signal - 1);
  *pid = owner > 0 ? static_cast<uint32_t>(owner) : 0;
  return true;
}

}  // namespace softmig::sys
