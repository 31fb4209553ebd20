/* Uses CUDA as a program of an older system does: look-ups of every kind, memory until it is
 * refused, a fork, threads. Plain C, so that it can be built against any C library.
 *
 *   old_world LIBCUDA      prints one line a step; compared with what is expected
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*Init)(unsigned);
typedef int (*Create)(void**, unsigned, int);
typedef int (*Alloc)(unsigned long*, unsigned long);
typedef int (*Info)(unsigned long*, unsigned long*);

static Alloc alloc;

static int take_until_refused(void) {
  unsigned long address;
  int result = 0, pieces = 0;
  while (pieces < 64 && result == 0) {
    result = alloc(&address, 128ul << 20);
    pieces += result == 0;
  }
  printf("pieces %d then %d\n", pieces, result);
  return pieces;
}

static void* in_thread(void* argument) {
  (void)argument;
  unsigned long address;
  printf("thread %d\n", alloc(&address, 1ul << 50));
  return NULL;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) return 3;
  alloc = (Alloc)dlsym(library, "cuMemAlloc_v2");
  const Alloc anywhere = (Alloc)dlsym(RTLD_DEFAULT, "cuMemAlloc_v2");
  const Alloc next = (Alloc)dlsym(RTLD_NEXT, "cuMemAlloc_v2");
  printf("same %d\n", anywhere == alloc && next == alloc);
  Dl_info info;
  const int ours = dladdr((void*)alloc, &info) != 0 && info.dli_fname != NULL &&
                   info.dli_fname[0] == '/' && dlsym(library, "cuInit") != NULL;
  printf("found %d\n", ours);
  void* context;
  unsigned long free_bytes = 0, total = 0;
  const int init = ((Init)dlsym(library, "cuInit"))(0);
  const int create = ((Create)dlsym(library, "cuCtxCreate_v2"))(&context, 0, 0);
  printf("init %d create %d\n", init, create);
  take_until_refused();
  const Info memory = (Info)dlsym(library, "cuMemGetInfo_v2");
  printf("info %d", memory(&free_bytes, &total));
  printf(" total %lu\n", total >> 20);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int refused = alloc(&free_bytes, 1ul << 40);
    printf("child %d\n", refused);
    fflush(stdout);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, in_thread, NULL) == 0) pthread_join(thread, NULL);
  printf("unknown %d\n", dlsym(library, "no_such_symbol") == NULL && dlerror() != NULL);
  printf("end %d\n", status);
  return 0;
}
