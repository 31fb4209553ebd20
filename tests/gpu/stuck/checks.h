// The checks of stuck, one family per file.
#pragma once

#include "stuck/kit.h"

namespace softmig::gpu_test {

void add_wait_checks(Checks* checks);
void add_graph_checks(Checks* checks);
void add_process_checks(Checks* checks);
void add_context_checks(Checks* checks);

// A check that may take so many seconds.
inline void add_timed(Checks* checks, const char* name, unsigned int seconds,
                      void (*body)(Checks::Report&)) {
  checks->add(name, [=](Checks::Report& report) {
    set_alarm(seconds, name);
    body(report);
  });
}

}  // namespace softmig::gpu_test
