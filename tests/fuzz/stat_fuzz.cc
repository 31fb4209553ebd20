// /proc/<pid>/stat: what a process calls itself must not matter.
#include <string>

#include "fuzz.h"
#include "sys/proc.h"

using namespace softmig;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  sys::ProcessState state;
  if (!sys::parse_process_stat(text, &state)) fuzz::must(!state.exists && state.start_ticks == 0);
  std::string line = "1 (" + std::string(text) + ") S";
  for (int field = 4; field <= 52; field++) line += ' ' + std::to_string(field);
  fuzz::must(sys::parse_process_stat(line, &state));
  fuzz::must(state.exists && !state.dead && state.start_ticks == 22);
  return 0;
}
