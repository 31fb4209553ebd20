// The checks of launches, one family per file.
#pragma once

#include "stuck/checks.h"

namespace softmig::gpu_test {

void add_route_checks(Checks* checks);
void add_capture_checks(Checks* checks);
void add_symbol_checks(Checks* checks);
void add_device_checks(Checks* checks);

// How a launch symbol of the driver is treated, by its exported name.
struct LaunchSymbol {
  const char* name;
  const char* check;   // the route whose check shows that it is charged, or null
  const char* reason;  // why it need not be
};
extern const std::vector<LaunchSymbol> kLaunchSymbols;

}  // namespace softmig::gpu_test
