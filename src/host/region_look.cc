#include "host/region_look.h"

namespace softmig::host {
namespace {

constexpr size_t kUsualProcesses = 64;

}  // namespace

int RegionLook::index_of(uint64_t key) const {
  for (int i = 0; i < static_cast<int>(abi::kMaxDevices); i++) {
    if (key != 0 && view.device[i].key == key) return i;
  }
  return -1;
}

RegionLook look_at_region(const std::string& path, const char* proc_root,
                          const job::SlotFilter& filter) {
  RegionLook look;
  for (size_t room = kUsualProcesses;; room *= 8) {
    look.processes.assign(room, {});
    look.status = job::view_region(path.c_str(), proc_root, &look.view, look.processes.data(),
                                   static_cast<int>(room), filter);
    if (!look.view.more || room > abi::kMaxSlots) break;
  }
  look.processes.resize(static_cast<size_t>(look.view.process_count));
  return look;
}

}  // namespace softmig::host
