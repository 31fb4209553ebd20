#include "cli/slot_board.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "cli/failure.h"
#include "job/board.h"
#include "policy/settings.h"

namespace softmig::cli {

std::vector<std::string> SlotBoard::files_of(const std::vector<SlotClaim>& claims) const {
  std::vector<std::string> files;
  for (const SlotClaim& claim : claims) {
    policy::Uuid uuid;
    if (!policy::parse_uuid(claim.gpu, &uuid)) continue;
    for (uint32_t slot = 0; slot < 32; slot++) {
      char path[job::kMaxPath];
      if ((claim.mask >> slot & 1) == 0) continue;
      if (job::board_file(folder_.c_str(), job::device_key(uuid), slot, path)) {
        files.emplace_back(path);
      }
    }
  }
  return files;
}

void SlotBoard::give(const std::vector<SlotClaim>& claims, uint32_t uid, uint32_t gid) const {
  if (mkdir(folder_.c_str(), 0755) != 0 && errno != EEXIST) {
    throw Failure(with_errno(folder_, errno));
  }
  for (const std::string& file : files_of(claims)) {
    // One that is left of a job that is no more says nothing about this one.
    unlink(file.c_str());
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) throw Failure(with_errno(file, errno));
    const int error = fchmod(fd, 0644) != 0 || fchown(fd, uid, gid) != 0 ? errno : 0;
    close(fd);
    if (error != 0) throw Failure(with_errno(file, error));
  }
}

void SlotBoard::take_back(const std::vector<SlotClaim>& claims) const {
  for (const std::string& file : files_of(claims)) unlink(file.c_str());
}

}  // namespace softmig::cli
