// Modules take the memory of their variables when they are loaded; libraries when something in them
// is first used in a context.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "driver/image.h"
#include "driver/objects.h"

namespace softmig::sim {

struct Module {
  static constexpr Mark kMark = kModule;
  Mark mark = kModule;
  Context* context = nullptr;
  Image image;
  std::map<std::string, std::pair<uint64_t, uint64_t>> variables;  // name -> address, bytes
  std::map<std::string, Function*> functions;
};

struct Kernel;

struct Library {
  static constexpr Mark kMark = kLibrary;
  Mark mark = kLibrary;
  Image image;
  std::map<uint64_t, Module*> modules;  // by context id
  std::map<std::string, Kernel*> kernels;
};

struct Kernel {
  static constexpr Mark kMark = kKernel;
  Mark mark = kKernel;
  Library* library = nullptr;
  std::string name;
};

struct Link {
  static constexpr Mark kMark = kLink;
  Mark mark = kLink;
  std::string text;
};

namespace {

void free_variables(Module* module) {
  for (const auto& [name, place] : module->variables) {
    Range* range = find_range(place.first);
    if (range != nullptr && range->kind == RangeKind::kManaged)
      free_range(range);
    else
      free_linear(place.first);
  }
  module->variables.clear();
}

uint64_t take_variable(Module* module, const Variable& variable) {
  const uint64_t bytes = std::max<uint64_t>(1, variable.bytes);
  if (variable.managed) {
    const Range* range = make_managed(module->context, bytes);
    return range != nullptr ? range->base : 0;
  }
  return take_linear(module->context, &module->context->module, bytes,
                     std::max<uint64_t>(variable.alignment, kUnit));
}

CUresult load(Context* context, const Image& image, Module** out) {
  auto module = std::make_unique<Module>();
  module->context = context;
  module->image = image;
  for (const Variable& variable : image.variables) {
    const uint64_t address = take_variable(module.get(), variable);
    if (address == 0) {
      free_variables(module.get());
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->variables[variable.name] = {address, variable.bytes};
  }
  for (const Entry& entry : image.entries) {
    auto* function = new Function();
    function->module = module.get();
    function->name = entry.name;
    function->parameter_bytes = entry.parameter_bytes;
    function->parameter_count = entry.parameter_count;
    function->uses_heap = image.uses_heap;
    function->uses_printf = image.uses_printf;
    module->functions[entry.name] = function;
  }
  context->modules.insert(module.get());
  *out = module.release();
  return CUDA_SUCCESS;
}

void retire(Module* module) {
  for (auto& [name, function] : module->functions) function->mark = kDead;
  module->mark = kDead;
}

void unload(Module* module) {
  free_variables(module);
  module->context->modules.erase(module);
  retire(module);
}

CUresult load_image(Call& call, CUmodule* out, const void* data) {
  if (out == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (call.forbidden_in_capture()) return call.code();
  Image image;
  if (const CUresult code = read_image(data, &image)) return code;
  Module* module = nullptr;
  if (const CUresult code = load(call.context(), image, &module)) return code;
  *out = reinterpret_cast<CUmodule>(module);
  return CUDA_SUCCESS;
}

bool read_file(const char* path, std::string* text) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return false;
  text->assign(std::istreambuf_iterator<char>(in), {});
  text->push_back('\0');
  return true;
}

// The library's module in this context, loaded at the first call.
CUresult module_of(Library* library, Context* context, Module** out) {
  Module*& module = library->modules[context->id];
  if (module == nullptr || module->mark == kDead) {
    if (const CUresult code = load(context, library->image, &module)) {
      library->modules.erase(context->id);
      return code;
    }
  }
  *out = module;
  return CUDA_SUCCESS;
}

CUresult load_library(CUlibrary* out, const void* data) {
  if (out == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto library = std::make_unique<Library>();
  if (const CUresult code = read_image(data, &library->image)) return code;
  *out = reinterpret_cast<CUlibrary>(library.release());
  return CUDA_SUCCESS;
}

CUresult library_variable(Call& call, CUdeviceptr* address, std::size_t* bytes, CUlibrary handle,
                          const char* name, bool managed) {
  auto* library = live<Library>(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (const Variable& variable : library->image.variables) {
    if (variable.name != name || variable.managed != managed) continue;
    Module* module = nullptr;
    if (const CUresult code = module_of(library, call.context(), &module)) return code;
    const auto& place = module->variables[variable.name];
    if (address != nullptr) *address = place.first;
    if (bytes != nullptr) *bytes = place.second;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult find_variable(CUmodule handle, const char* name, std::pair<uint64_t, uint64_t>* place) {
  auto* module = live<Module>(handle);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto at = module->variables.find(name);
  if (at == module->variables.end()) return CUDA_ERROR_NOT_FOUND;
  *place = at->second;
  return CUDA_SUCCESS;
}

}  // namespace

void retire_modules(Context* context) {
  for (Module* module : context->modules) retire(module);
  context->modules.clear();
}

Function* find_function(CUfunction handle, Context* context, CUresult* code) {
  *code = CUDA_ERROR_INVALID_HANDLE;
  if (auto* function = live<Function>(handle)) {
    if (function->module->context == context) return function;
    *code = CUDA_ERROR_INVALID_CONTEXT;
    return nullptr;
  }
  auto* kernel = live<Kernel>(handle);  // a CUkernel may stand for the function in any context
  if (kernel == nullptr) return nullptr;
  Module* module = nullptr;
  *code = module_of(kernel->library, context, &module);
  return *code == CUDA_SUCCESS ? module->functions[kernel->name] : nullptr;
}

}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  Call call(__func__);
  return call.failed() ? call.code() : load_image(call, module, image);
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int, CUjit_option*,
                            void**) {
  Call call(__func__);
  return call.failed() ? call.code() : load_image(call, module, image);
}

CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) {
  Call call(__func__);
  return call.failed() ? call.code() : load_image(call, module, image);
}

CUresult cuModuleLoad(CUmodule* module, const char* path) {
  Call call(__func__);
  if (call.failed()) return call.code();
  std::string text;
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_file(path, &text) ? load_image(call, module, text.data()) : CUDA_ERROR_FILE_NOT_FOUND;
}

CUresult cuModuleUnload(CUmodule handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* module = live<Module>(handle);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (call.forbidden_in_capture()) return call.code();
  wait_for(call, context_work(*module->context));
  unload(module);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* module = live<Module>(handle);
  if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto at = module->functions.find(name);
  if (at == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
  *out = reinterpret_cast<CUfunction>(at->second);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, std::size_t* bytes, CUmodule module,
                              const char* name) {
  Call call(__func__);
  if (call.failed()) return call.code();
  std::pair<uint64_t, uint64_t> place;
  if (const CUresult code = find_variable(module, name, &place)) return code;
  if (address != nullptr) *address = place.first;
  if (bytes != nullptr) *bytes = place.second;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal(CUdeviceptr_v1* address, unsigned int* bytes, CUmodule module,
                           const char* name) {
  Call call(__func__);
  if (call.failed()) return call.code();
  std::pair<uint64_t, uint64_t> place;
  if (const CUresult code = find_variable(module, name, &place)) return code;
  if (address != nullptr) *address = static_cast<CUdeviceptr_v1>(place.first);
  if (bytes != nullptr) *bytes = static_cast<unsigned int>(place.second);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* out, const void* image, CUjit_option*, void**, unsigned int,
                           CUlibraryOption*, void**, unsigned int) {
  Call call(__func__, Needs::kInit);
  return call.failed() ? call.code() : load_library(out, image);
}

CUresult cuLibraryLoadFromFile(CUlibrary* out, const char* path, CUjit_option*, void**,
                               unsigned int, CUlibraryOption*, void**, unsigned int) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  std::string text;
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_file(path, &text) ? load_library(out, text.data()) : CUDA_ERROR_FILE_NOT_FOUND;
}

CUresult cuLibraryUnload(CUlibrary handle) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* library = live<Library>(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  for (auto& [context, module] : library->modules) {
    if (module->mark != kDead) unload(module);
  }
  for (auto& [name, kernel] : library->kernels) kernel->mark = kDead;
  library->mark = kDead;
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel* out, CUlibrary handle, const char* name) {
  Call call(__func__, Needs::kInit);
  if (call.failed()) return call.code();
  auto* library = live<Library>(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (const Entry& entry : library->image.entries) {
    if (entry.name != name) continue;
    Kernel*& kernel = library->kernels[name];
    if (kernel == nullptr) kernel = new Kernel{kKernel, library, name};
    *out = reinterpret_cast<CUkernel>(kernel);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuLibraryGetModule(CUmodule* out, CUlibrary handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* library = live<Library>(handle);
  if (library == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Module* module = nullptr;
  if (const CUresult code = module_of(library, call.context(), &module)) return code;
  *out = reinterpret_cast<CUmodule>(module);
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr* address, std::size_t* bytes, CUlibrary library,
                            const char* name) {
  Call call(__func__);
  return call.failed() ? call.code() : library_variable(call, address, bytes, library, name, false);
}

CUresult cuLibraryGetManaged(CUdeviceptr* address, std::size_t* bytes, CUlibrary library,
                             const char* name) {
  Call call(__func__);
  return call.failed() ? call.code() : library_variable(call, address, bytes, library, name, true);
}

CUresult cuKernelGetFunction(CUfunction* out, CUkernel handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(reinterpret_cast<CUfunction>(handle), call.context(), &code);
  if (function != nullptr) *out = reinterpret_cast<CUfunction>(function);
  return code;
}

CUresult cuFuncGetModule(CUmodule* out, CUfunction handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUmodule>(function->module);
  return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char** name, CUfunction handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  const Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *name = function->name.c_str();
  return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char** name, CUkernel handle) {
  return cuFuncGetName(name, reinterpret_cast<CUfunction>(handle));
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  const Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const DeviceRow& row = *call.device()->row;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = 1024;
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = 32;
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = row.major * 10 + row.minor;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = function->max_dynamic_shared;
      break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *value = -1;
      break;
    default:
      *value = 0;
      break;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  Call call(__func__);
  if (call.failed()) return call.code();
  CUresult code = CUDA_SUCCESS;
  Function* function = find_function(handle, call.context(), &code);
  if (function == nullptr) return code;
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
  const int most = call.device()->row->shared_per_multiprocessor - 1024;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > most)
    return CUDA_ERROR_INVALID_VALUE;
  function->max_dynamic_shared = value;
  return CUDA_SUCCESS;
}

// --- the linker: gives back the PTX or the one cubin that it was given

CUresult cuLinkCreate_v2(unsigned int, CUjit_option*, void**, CUlinkState* state) {
  Call call(__func__);
  if (call.failed()) return call.code();
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *state = reinterpret_cast<CUlinkState>(new Link());
  return CUDA_SUCCESS;
}

CUresult cuLinkAddData_v2(CUlinkState handle, CUjitInputType, void* data, std::size_t bytes,
                          const char*, unsigned int, CUjit_option*, void**) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* link = live<Link>(handle);
  if (link == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (data == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  while (!link->text.empty() && link->text.back() == '\0') link->text.pop_back();
  link->text.append(static_cast<const char*>(data), bytes);
  link->text.push_back('\0');
  return CUDA_SUCCESS;
}

CUresult cuLinkComplete(CUlinkState handle, void** image, std::size_t* bytes) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* link = live<Link>(handle);
  if (link == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (image == nullptr || link->text.empty()) return CUDA_ERROR_INVALID_VALUE;
  *image = link->text.data();
  if (bytes != nullptr) *bytes = link->text.size();
  return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState handle) {
  Call call(__func__);
  if (call.failed()) return call.code();
  auto* link = live<Link>(handle);
  if (link == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  link->mark = kDead;
  link->text.clear();
  return CUDA_SUCCESS;
}
