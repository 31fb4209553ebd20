// Stands in for libcuda.so.1 while the linked test programs are linked, so that no driver has to be
// installed to build them. At run time the real or the simulated driver takes its place.
#define SM_DRIVER(base, symbol, since, until) \
  extern "C" int symbol() { return 34; } /* CUDA_ERROR_STUB_LIBRARY */
#include "common/driver_functions.def"
#undef SM_DRIVER
