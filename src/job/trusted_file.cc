#include "job/trusted_file.h"

#include <errno.h>

#include <charconv>

#include "base/format.h"

namespace softmig::job {
namespace {

constexpr uint32_t kDefaultOverflowUid = 65534;
constexpr uint64_t kAllUids = UINT32_MAX;
constexpr uint32_t kWritableByOthers = 0022;
// Whoever may write here is root: only a rewrite without a pause uses all of them up.
constexpr int kOpenAttempts = 100;

bool next_number(std::string_view* text, uint64_t* number) {
  while (!text->empty() && (text->front() == ' ' || text->front() == '\n')) text->remove_prefix(1);
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *number);
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return error == std::errc();
}

long read_proc(const Places& places, const char* name, char* buffer, size_t size) {
  char path[256];
  base::Text(path).add(places.proc).add(name);
  return sys::read_small(path, buffer, size);
}

// One line of a uid map: `count` uids from `inside` on are those from `outside` on.
struct Range {
  uint64_t inside = 0, outside = 0, count = 0;
};

bool next_range(std::string_view* text, Range* range) {
  return next_number(text, &range->inside) && next_number(text, &range->outside) &&
         next_number(text, &range->count);
}

class UidMap {
 public:
  explicit UidMap(const Places& places) {
    const long length = read_proc(places, "/self/uid_map", buffer_, sizeof buffer_);
    rest_ = {buffer_, length > 0 ? static_cast<size_t>(length) : 0};
    there_ = length >= 0;
  }
  bool is_there() const { return there_; }
  bool next(Range* range) { return next_range(&rest_, range); }

 private:
  char buffer_[4096];
  std::string_view rest_;
  bool there_ = false;
};

uint32_t overflow_uid(const Places& places) {
  char buffer[32];
  const long length = read_proc(places, "/sys/kernel/overflowuid", buffer, sizeof buffer);
  std::string_view text(buffer, length > 0 ? static_cast<size_t>(length) : 0);
  uint64_t uid = 0;
  return next_number(&text, &uid) ? static_cast<uint32_t>(uid) : kDefaultOverflowUid;
}

// What makes a file or directory unfit, null if nothing does.
const char* fault_of(const sys::FileStatus& status, const Places& places) {
  uint32_t owner = 0;
  if (!visible_owner(places, &owner)) return "has an owner who cannot be told from this user";
  if (status.uid != owner) return "does not belong to root";
  if ((status.permissions() & kWritableByOthers) != 0) return "can be written by others than root";
  return nullptr;
}

const char* fault_of_file(const sys::FileStatus& status, const Places& places) {
  if (!status.is_regular()) return "is not a regular file";
  if (status.links == 0) return "is being replaced without a pause";
  if (status.links != 1) return "has more than one link";
  if (status.size > kMaxConfigBytes) return "is larger than 64 KiB";
  return fault_of(status, places);
}

}  // namespace

// A kernel without user namespaces has no map. A namespace whose map is not written yet maps
// nobody.
bool in_user_namespace(const Places& places) {
  UidMap map(places);
  Range range;
  if (!map.next(&range)) return map.is_there();
  return range.inside != 0 || range.outside != 0 || range.count != kAllUids;
}

bool visible_owner(const Places& places, uint32_t* uid) {
  if (!in_user_namespace(places)) {
    *uid = places.trusted_uid;
    return true;
  }
  *uid = overflow_uid(places);
  return *uid != sys::effective_uid() && *uid != sys::real_uid();
}

uint32_t outer_uid(const Places& places) {
  const uint32_t uid = sys::real_uid();
  UidMap map(places);
  Range range;
  while (map.next(&range)) {
    if (uid < range.inside || uid - range.inside >= range.count) continue;
    return static_cast<uint32_t>(range.outside + (uid - range.inside));
  }
  return uid;
}

RunDirectory::RunDirectory(const Places& places)
    : places_(places), fd_(sys::open_directory(places.run_dir)) {
  if (fd_ < 0) open_error_ = errno;
}

RunDirectory::~RunDirectory() {
  if (fd_ >= 0) sys::close_file(fd_);
}

bool RunDirectory::is_absent() const { return fd_ < 0 && open_error_ == ENOENT; }

void RunDirectory::describe_failure(int reason, const char* name, base::Text& error) const {
  base::format(error, "%s/%s: ", places_.run_dir, name);
  if (reason == ELOOP) error.add("is a symbolic link");
  if (reason == EACCES) error.add("may not be read by this user");
  if (reason != ELOOP && reason != EACCES)
    base::format(error, "cannot be opened: errno %d", reason);
}

const char* RunDirectory::fault_of_directory() const {
  sys::FileStatus status;
  return sys::status_of_fd(fd_, &status) ? fault_of(status, places_) : "cannot be looked at";
}

// A file that was replaced between open and fstat has no link left: the new one counts.
int RunDirectory::open_current(const char* name, sys::FileStatus* status) const {
  for (int attempt = 0;; attempt++) {
    const int fd = sys::open_to_read(fd_, name);
    if (fd < 0 || !sys::status_of_fd(fd, status)) return fd;
    if (status->links != 0 || attempt == kOpenAttempts) return fd;
    sys::close_file(fd);
  }
}

int RunDirectory::open(const char* name, sys::FileStatus* status, bool* absent,
                       base::Text& error) const {
  *absent = is_absent();
  if (*absent) return -1;
  errno = open_error_;
  const int fd = fd_ >= 0 ? open_current(name, status) : -1;
  if (fd < 0) {
    *absent = fd_ >= 0 && errno == ENOENT;
    if (!*absent) describe_failure(errno, name, error);
    return -1;
  }
  const char* fault = fault_of_file(*status, places_);
  if (fault != nullptr) {
    base::format(error, "%s/%s: %s", places_.run_dir, name, fault);
  } else {
    fault = fault_of_directory();
    if (fault != nullptr) base::format(error, "directory %s: %s", places_.run_dir, fault);
  }
  if (fault == nullptr) return fd;
  sys::close_file(fd);
  return -1;
}

}  // namespace softmig::job
