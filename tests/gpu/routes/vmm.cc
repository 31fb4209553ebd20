// Virtual memory management: physical memory with cuMemCreate, with and without a mapping.
#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kGranularity = 2 * kMiB;

class Vmm : public Route {
 public:
  Vmm(const Session& session, bool map)
      : driver_(session.driver), device_(session.device), map_(map) {}

  CUresult take(uint64_t bytes, uint64_t* got) override {
    Piece piece{};
    piece.bytes = (bytes + kGranularity - 1) / kGranularity * kGranularity;
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
    CUresult code = driver_.cuMemCreate(&piece.handle, piece.bytes, &prop, 0);
    if (code != CUDA_SUCCESS) return code;
    if (map_) code = map(&piece);
    held_.push_back(piece);
    if (code == CUDA_SUCCESS) *got = piece.bytes;
    return code;
  }

  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    const auto note = [&first](CUresult code) {
      if (first == CUDA_SUCCESS) first = code;
    };
    for (const Piece& piece : held_) {
      if (piece.mapped) note(driver_.cuMemUnmap(piece.address, piece.bytes));
      if (piece.address != 0) note(driver_.cuMemAddressFree(piece.address, piece.bytes));
      if (!piece.mapped) note(driver_.cuMemRelease(piece.handle));
    }
    held_.clear();
    return first;
  }

 private:
  struct Piece {
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    uint64_t bytes;
    bool mapped;
  };

  // The handle is let go of at once: from then on the mapping alone holds the memory.
  CUresult map(Piece* piece) {
    CUresult code = driver_.cuMemAddressReserve(&piece->address, piece->bytes, 0, 0, 0);
    if (code != CUDA_SUCCESS) return code;
    code = driver_.cuMemMap(piece->address, piece->bytes, 0, piece->handle, 0);
    if (code != CUDA_SUCCESS) return code;
    piece->mapped = true;
    CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, device_},
                           CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    code = driver_.cuMemSetAccess(piece->address, piece->bytes, &access, 1);
    return code != CUDA_SUCCESS ? code : driver_.cuMemRelease(piece->handle);
  }

  const Driver& driver_;
  CUdevice device_;
  bool map_;
  std::vector<Piece> held_;
};

}  // namespace

std::unique_ptr<Route> make_vmm_route(std::string_view name, const Session& session,
                                      bool* missing) {
  if (name != "create" && name != "create_map") return nullptr;
  *missing = session.driver.cuMemCreate == nullptr;
  if (*missing) return nullptr;
  return std::make_unique<Vmm>(session, name == "create_map");
}

}  // namespace softmig::gpu_test
