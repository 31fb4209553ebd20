// This file knows the functions by name only; it must not see their declarations.
#include "driver/symbols.h"

#define SIM_SYMBOL(name, since) extern "C" void name();
#include "symbols/cuda.def"
#undef SIM_SYMBOL

namespace softmig::sim {
namespace {

constexpr Symbol kSymbols[] = {
#define SIM_SYMBOL(name, since) {#name, since, &::name},
#include "symbols/cuda.def"
#undef SIM_SYMBOL
};

}  // namespace

std::span<const Symbol> all_symbols() { return kSymbols; }

}  // namespace softmig::sim
