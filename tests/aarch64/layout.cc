// All that two processes share or that a driver is handed: compiled for both processors by
// layout_test.py, which compares what the compilers say of it. Tools of one look at regions of the
// other's machines.
#include "abi/cuda.h"
#include "abi/nvml.h"
#include "abi/region.h"
#include "job/board.h"
#include "job/region_view.h"
