// Functions that the real NVML exports and that the simulated one does not model. Weak: where
// another file defines the function, that one counts.
namespace {
constexpr unsigned int kNotSupported = 3;
}

#define SIM_SYMBOL(name, since) \
  extern "C" __attribute__((weak)) unsigned int name() { return kNotSupported; }
#include "symbols/nvml.def"
#undef SIM_SYMBOL
