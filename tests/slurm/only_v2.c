/* For a slurmd that is to use cgroup v2 on a machine that has v1 hierarchies as well: shows only
 * the line of v2 in /proc/self/cgroup. Slurm refuses such hybrids, tests want both. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int (*Open)(const char*, int, ...);

static int only_v2(Open next) {
  char line[4096];
  const int from = next("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
  if (from < 0) return from;
  FILE* file = fdopen(from, "r");
  const int to = memfd_create("cgroup", MFD_CLOEXEC);
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, "0::", 3) == 0 && write(to, line, strlen(line)) < 0) break;
  }
  fclose(file);
  lseek(to, 0, SEEK_SET);
  return to;
}

#define REPLACE(name)                                       \
  int name(const char* path, int flags, ...) {              \
    static Open next;                                       \
    if (next == NULL) next = (Open)dlsym(RTLD_NEXT, #name); \
    va_list more;                                           \
    va_start(more, flags);                                  \
    const int mode = va_arg(more, int);                     \
    va_end(more);                                           \
    if (strcmp(path, "/proc/self/cgroup") == 0) {           \
      return only_v2(next);                                 \
    }                                                       \
    return next(path, flags, mode);                         \
  }
REPLACE(open)
REPLACE(open64)
