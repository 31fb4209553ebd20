// What happens in a fork child, as another user, told by its exit status.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

namespace softmig::testing {

inline constexpr unsigned kNobody = 65534;

// Exit status of the child, or 1000 + signal. The child is to return a status below 256.
inline int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// As above, with all ids changed. Only root can.
inline int in_child_as(unsigned uid, const std::function<int()>& body) {
  return in_child(
      [&] { return setresgid(uid, uid, uid) || setresuid(uid, uid, uid) ? 255 : body(); });
}

}  // namespace softmig::testing
