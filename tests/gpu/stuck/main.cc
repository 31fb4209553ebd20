// stuck [NAME | --list]: programs that wait for their own work in every way must not wait for ever
// when their launches are held back, and must compute what they compute natively. Every check has
// an alarm of its own. Made for a limit of GPU time of 10 or 25 %.
#include "stuck/checks.h"

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Checks checks;
  add_wait_checks(&checks);
  add_graph_checks(&checks);
  add_process_checks(&checks);
  add_context_checks(&checks);
  return checks.run(argc, argv);
}
