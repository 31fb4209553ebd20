// One huge request by a side door: a __device__ array, the device's malloc heap, its stack, its
// printf buffer. It must be refused where it is asked for, leave nothing behind, and two fifths of
// it (less for the stack) must still be granted afterwards.
#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

// A module with one array and nothing else.
std::string module_with_array(uint64_t bytes) {
  return ".version 7.0\n.target sm_70\n.address_size 64\n.visible .global .align 16 .b8 big[" +
         std::to_string(bytes) + "];\n";
}

CUresult module_global(const Session& session, uint64_t bytes) {
  const std::string image = module_with_array(bytes);
  CUmodule module = nullptr;
  CUresult code = session.driver.cuModuleLoadData(&module, image.c_str());
  if (code != CUDA_SUCCESS) return code;
  CUdeviceptr address = 0;
  size_t size = 0;
  code = session.driver.cuModuleGetGlobal_v2(&address, &size, module, "big");
  const CUresult unloaded = session.driver.cuModuleUnload(module);
  if (code == CUDA_SUCCESS && size != bytes) return CUDA_ERROR_INVALID_VALUE;
  return code != CUDA_SUCCESS ? code : unloaded;
}

// A library takes its memory at the first use of something in it, not when it is loaded.
CUresult library_global(const Session& session, uint64_t bytes) {
  if (session.driver.cuLibraryLoadData == nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  const std::string image = module_with_array(bytes);
  CUlibrary library = nullptr;
  CUresult code = session.driver.cuLibraryLoadData(&library, image.c_str(), nullptr, nullptr, 0,
                                                   nullptr, nullptr, 0);
  if (code != CUDA_SUCCESS) return code;
  CUdeviceptr address = 0;
  size_t size = 0;
  code = session.driver.cuLibraryGetGlobal(&address, &size, library, "big");
  const CUresult unloaded = session.driver.cuLibraryUnload(library);
  return code != CUDA_SUCCESS ? code : unloaded;
}

CUresult set_limit(const Session& session, CUlimit limit, uint64_t value) {
  size_t before = 0;
  session.driver.cuCtxGetLimit(&before, limit);
  const CUresult code = session.driver.cuCtxSetLimit(limit, value);
  if (code == CUDA_SUCCESS) session.driver.cuCtxSetLimit(limit, before);
  return code;
}

CUresult heap(const Session& session, uint64_t bytes) {
  return set_limit(session, CU_LIMIT_MALLOC_HEAP_SIZE, bytes);
}

CUresult printf_buffer(const Session& session, uint64_t bytes) {
  return set_limit(session, CU_LIMIT_PRINTF_FIFO_SIZE, bytes);
}

// Every thread that the card can run gets this much stack: `bytes` is what they need together.
CUresult stack(const Session& session, uint64_t bytes) {
  int processors = 1, threads = 1;
  session.driver.cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                      session.device);
  session.driver.cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                                      session.device);
  const uint64_t each = bytes / (static_cast<uint64_t>(processors) * threads) / 16 * 16 + 1024;
  return set_limit(session, CU_LIMIT_STACK_SIZE, each);
}

}  // namespace

int run_single_request(const Options& options) {
  static constexpr struct {
    std::string_view name;
    CUresult (*ask)(const Session&, uint64_t);
  } kRequests[] = {{"module_global", module_global},
                   {"library_global", library_global},
                   {"heap_limit", heap},
                   {"printf_limit", printf_buffer},
                   {"stack_limit", stack}};
  for (const auto& request : kRequests) {
    if (options.route != request.name) continue;
    Line line("route");
    line.add("route", options.route).add("lookup", options.lookup).add("size", options.size);
    Lookup lookup;
    Session session;
    std::string step;
    if (!parse_lookup(options.lookup, &lookup)) return 2;
    if (CUresult code = session.open(lookup, options.device, &step)) {
      line.add("ok", false).add("text", step).add("result", code).print();
      return 1;
    }
    const uint64_t bytes = parse_size(options.size);
    const uint64_t before = session.free_bytes();
    const CUresult refused = request.ask(session, bytes);
    if (refused == CUDA_ERROR_NOT_SUPPORTED) {
      line.add("skipped", true).add("ok", true).print();
      return kExitSkipped;
    }
    const uint64_t between = session.free_bytes();
    const CUresult granted = request.ask(session, bytes / 5 * 2);
    const uint64_t after = session.free_bytes();
    const bool ok = refused == CUDA_ERROR_OUT_OF_MEMORY && granted == CUDA_SUCCESS &&
                    between == before && after == before;
    line.add("granted", uint64_t{0}).add("result", refused).add("smaller_result", granted);
    line.add("result_name", error_name(session.driver, refused)).add("free_before", before);
    line.add("free_after_refusal", between).add("free_after", after).add("ok", ok).print();
    return ok ? 0 : 1;
  }
  return -1;
}

}  // namespace softmig::gpu_test
