// cuGetProcAddress, cuGetExportTable, and the symbols that a rule of faults takes away.
#include <cstdio>
#include <cstring>
#include <string>

#include "driver/core.h"
#include "driver/symbols.h"
#include "state/faults.h"

namespace softmig::sim {
namespace {

constexpr CUuuid kIntegrityTable = {{'\xd4', '\x08', '\x20', '\x55', '\xbd', '\xe6', '\x70', '\x4b',
                                     '\x8d', '\x34', '\xba', '\x12', '\x3c', '\x66', '\xe1',
                                     '\xf2'}};
constexpr CUuuid kRuntimeTable = {{'\x6b', '\xd5', '\xfb', '\x6c', '\x5b', '\xf4', '\xe7', '\x4a',
                                   '\x89', '\x87', '\xd9', '\x39', '\x12', '\xfd', '\x9d', '\xf9'}};

bool is(const CUuuid& a, const CUuuid& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

void explain_once() {
  static bool said = false;
  if (said) return;
  said = true;
  std::fprintf(stderr,
               "simulated GPU: it serves programs of the CUDA driver API; the CUDA runtime "
               "(cudart) needs a real "
               "driver, so this program cannot run here\n");
}

// Splits "cuMemcpy_ptds" into the plain name and whether it is for the per-thread default stream;
// and takes "_v2" off.
struct Parts {
  std::string_view base;
  bool per_thread;
};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
}

Parts split(std::string_view symbol) {
  Parts parts{symbol, ends_with(symbol, "_ptsz") || ends_with(symbol, "_ptds")};
  if (parts.per_thread) parts.base.remove_suffix(5);
  const size_t at = parts.base.rfind("_v");
  const bool versioned = at != parts.base.npos && at + 3 == parts.base.size() &&
                         parts.base[at + 2] >= '2' && parts.base[at + 2] <= '9';
  if (versioned) parts.base = parts.base.substr(0, at);
  return parts;
}

struct Answer {
  const Symbol* symbol = nullptr;
  CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
};

// The newest symbol of that name that is not newer than `version`; where the caller wants the
// per-thread default stream and the name has such symbols, only those count.
Answer look_up(std::string_view name, int version, cuuint64_t flags) {
  const bool want_per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
  bool has_per_thread = false;
  for (const Symbol& symbol : all_symbols()) {
    const Parts parts = split(symbol.name);
    has_per_thread |=
        parts.per_thread && parts.base == name && symbol.since <= softmig_sim_driver_version;
  }
  Answer answer;
  for (const Symbol& symbol : all_symbols()) {
    const Parts parts = split(symbol.name);
    if (parts.base != name || parts.per_thread != (want_per_thread && has_per_thread)) continue;
    if (symbol.since > softmig_sim_driver_version || is_missing(symbol.name)) continue;
    if (symbol.since > version) {
      if (answer.symbol == nullptr) answer.status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
      continue;
    }
    if (answer.symbol == nullptr || symbol.since >= answer.symbol->since) answer.symbol = &symbol;
    answer.status = CU_GET_PROC_ADDRESS_SUCCESS;
  }
  return answer;
}

CUresult get(const char* name, void** fn, int version, cuuint64_t flags,
             CUdriverProcAddressQueryResult* status) {
  if (name == nullptr || fn == nullptr || (flags & ~cuuint64_t{3}) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const Answer answer = look_up(name, version, flags);
  *fn = answer.symbol != nullptr ? reinterpret_cast<void*>(answer.symbol->address) : nullptr;
  if (status != nullptr) *status = answer.status;
  return answer.symbol != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // namespace
}  // namespace softmig::sim

using namespace softmig::sim;

CUresult cuGetProcAddress(const char* name, void** fn, int version, cuuint64_t flags) {
  Call call(__func__, Needs::kNothing);
  return call.failed() ? call.code() : get(name, fn, version, flags, nullptr);
}

CUresult cuGetProcAddress_v2(const char* name, void** fn, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  Call call(__func__, Needs::kNothing);
  return call.failed() ? call.code() : get(name, fn, version, flags, status);
}

CUresult cuGetExportTable(const void** table, const CUuuid* id) {
  Call call(__func__, Needs::kNothing);
  if (call.failed()) return call.code();
  if (table == nullptr || id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *table = nullptr;
  if (is(*id, kIntegrityTable) || is(*id, kRuntimeTable)) explain_once();
  return CUDA_ERROR_NOT_FOUND;
}
