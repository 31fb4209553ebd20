#include "common/nvml.h"

#include <dlfcn.h>

namespace softmig::gpu_test {

bool Nvml::open() {
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (library == nullptr) return false;
#define SM_NVML_FIND(name) name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));
  SM_NVML_FUNCTIONS(SM_NVML_FIND)
#undef SM_NVML_FIND
  return nvmlInit_v2 != nullptr && nvmlInit_v2() == NVML_SUCCESS;
}

}  // namespace softmig::gpu_test
