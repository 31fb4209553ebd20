// lifecycle [NAME | --list]: how processes, contexts and memory begin and end. Made for a slice of
// 4 GiB; every check is a process of its own, alone in its slice.
#include "lifecycle/checks.h"

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Checks checks;
  add_process_checks(&checks);
  add_context_checks(&checks);
  add_free_checks(&checks);
  add_pool_checks(&checks);
  add_error_checks(&checks);
  add_thread_checks(&checks);
  return checks.run(argc, argv);
}
