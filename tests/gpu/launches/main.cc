// launches [NAME | --list]: whatever way a launch takes, it is charged, and computes what it
// computes natively; captures are left alone; without a limit nothing is in the way.
#include "launches/checks.h"

int main(int argc, char** argv) {
  using namespace softmig::gpu_test;
  Checks checks;
  add_route_checks(&checks);
  add_capture_checks(&checks);
  add_symbol_checks(&checks);
  add_device_checks(&checks);
  return checks.run(argc, argv);
}
