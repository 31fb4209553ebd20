// Faults on request, from SOFTMIG_SIM_FAULT: a list of rules, separated by commas.
//
//   FUNCTION:fail=CODE[@N[+]]   the N-th call (all from the N-th on) ends with that result; no @:
//   all FUNCTION:slow=TIME[@N[+]]   takes that much longer; TIME is a number with us, ms or s
//   nvml:absent                 NVML does not start
//   cuda:absent                 there is no device
//   missing=FUNCTION            the driver does not have it: not by dlsym nor by cuGetProcAddress
//
// FUNCTION may end in * for all that begin so. @/path in place of the list names a file that holds
// it (lines count as commas); it is read again whenever it changes, so that a test can steer a
// running program. Calls are counted from the start of the program, per rule.
#pragma once

#include <optional>
#include <string_view>

namespace softmig::sim {

// Whether any rule may be there. Cheap.
bool has_faults();

// To be called at the start of every function: sleeps if a rule says so; the result to end with.
std::optional<unsigned int> injected_fault(std::string_view function);

bool is_missing(std::string_view function);
bool is_absent(std::string_view library);

}  // namespace softmig::sim
