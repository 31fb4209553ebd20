// The content of memory that processes share: a sparse file beside the state file, removed with the
// object.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver/vmm.h"
#include "state/state.h"

namespace softmig::sim {

std::shared_ptr<Storage> open_shared_storage(ObjectId id, uint64_t bytes, bool create,
                                             const Storage* from) {
  const std::string path = content_path(*driver().state, id);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0666);
  if (fd < 0) return std::make_shared<Storage>();
  if (create) fchmod(fd, 0666);
  void* at = create && ftruncate(fd, static_cast<off_t>(bytes)) != 0
                 ? MAP_FAILED
                 : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  close(fd);
  if (at == MAP_FAILED) return std::make_shared<Storage>();
  auto storage = std::make_shared<Storage>(static_cast<std::byte*>(at), bytes);
  if (from != nullptr) from->copy_to(storage.get());
  return storage;
}

}  // namespace softmig::sim
