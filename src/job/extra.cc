#include "job/extra.h"

#include <errno.h>

#include "base/text.h"
#include "job/region.h"
#include "sys/clock.h"
#include "sys/files.h"
#include "sys/publish.h"

namespace softmig::job {
namespace {

constexpr uint32_t kExtraVersion = 1;
constexpr uint64_t kMostBytes = uint64_t{1} << 44;  // no device has more than 16 TiB

bool extra_path(const char* region_path, char (&path)[kMaxPath + 8]) {
  base::Text text(path);
  text.add(region_path).add(".extra");
  return !text.overflowed();
}

bool is_trusted(int fd) {
  sys::FileStatus status;
  return sys::status_of_fd(fd, &status) && status.is_regular() &&
         status.size == sizeof(abi::ExtraPage) &&
         (status.uid == 0 || status.uid == sys::effective_uid());
}

bool is_sound(const abi::ExtraPage& page) {
  if (page.magic != abi::kExtraMagic || page.version != kExtraVersion) return false;
  if (page.device_count > abi::kMaxDevices) return false;
  for (uint32_t i = 0; i < page.device_count; i++) {
    if (page.device[i].bytes > kMostBytes) return false;
  }
  return true;
}

}  // namespace

bool read_extra_page(const char* region_path, abi::ExtraPage* page) {
  char path[kMaxPath + 8];
  if (!extra_path(region_path, path)) return false;
  const int fd = sys::open_untrusted(path);
  if (fd < 0) return false;
  const bool whole = is_trusted(fd) && sys::read_some(fd, reinterpret_cast<char*>(page),
                                                      sizeof *page) == sizeof *page;
  sys::close_file(fd);
  if (!whole || !is_sound(*page)) return false;
  const uint64_t now = sys::monotonic_ns();
  const uint64_t age = now > page->written_ns ? now - page->written_ns : page->written_ns - now;
  if (age > kExtraLifetimeNs) page->device_count = 0;
  return true;
}

int write_extra_page(const char* region_path, abi::ExtraPage* page) {
  char path[kMaxPath + 8];
  if (!extra_path(region_path, path)) return ENAMETOOLONG;
  page->magic = abi::kExtraMagic;
  page->version = kExtraVersion;
  page->written_ns = sys::monotonic_ns();
  // Readable for all: a page that root writes is read by the job's user.
  return sys::publish_file(path, page, sizeof *page, 0644);
}

}  // namespace softmig::job
