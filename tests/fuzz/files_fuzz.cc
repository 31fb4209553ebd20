// Small shared files that somebody else may have written: the extra page, slots on a board, a
// region that is no region. The first byte chooses.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "fuzz.h"
#include "job/board.h"
#include "job/extra.h"
#include "job/region_view.h"
#include "sys/clock.h"

using namespace softmig;

namespace {

struct Folder {
  Folder() {
    char pattern[] = "/tmp/softmig-fuzz-XXXXXX";
    path = mkdtemp(pattern);
  }
  ~Folder() {
    for (const std::string& file : {region, region + ".extra", board}) unlink(file.c_str());
    rmdir(path.c_str());
  }
  static void write(const std::string& name, std::string_view bytes) {
    const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    fuzz::must(fd >= 0 && ::write(fd, bytes.data(), bytes.size()) >= 0);
    close(fd);
  }
  std::string path, region = path + "/region", board;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Folder folder;
  if (size == 0) return 0;
  std::string bytes(fuzz::text_of(data + 1, size - 1));
  folder.region = folder.path + "/region";
  folder.board = folder.path + "/0000000000000001.0";
  if (data[0] % 3 == 0) {
    // The head of a page that would be good, so that the rest is looked at.
    const uint64_t magic = abi::kExtraMagic, now = sys::monotonic_ns();
    bytes.resize(sizeof(abi::ExtraPage));
    std::memcpy(bytes.data(), &magic, sizeof magic);
    if (data[0] >= 128) std::memcpy(bytes.data() + 16, &now, sizeof now);
    Folder::write(folder.region + ".extra", bytes);
    abi::ExtraPage page;
    if (!job::read_extra_page(folder.region.c_str(), &page)) return 0;
    fuzz::must(page.device_count <= abi::kMaxDevices);
    for (uint32_t i = 0; i < page.device_count; i++)
      fuzz::must(page.device[i].bytes <= uint64_t{1} << 44);
  } else if (data[0] % 3 == 1) {
    Folder::write(folder.board, bytes);
    const uint32_t open = job::open_slots(folder.path.c_str(), 1, 4, 0b10, 1000);
    fuzz::must((open & ~0b1101U) == 0 && (open & 0b1100U) == 0b1100U);
  } else {
    Folder::write(folder.region, bytes);
    job::RegionView view;
    fuzz::must(job::view_region(folder.region.c_str(), "/proc", &view, nullptr, 0) ==
               job::ViewStatus::kForeign);
  }
  return 0;
}
