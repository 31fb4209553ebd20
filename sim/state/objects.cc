#include "state/objects.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "state/process.h"
#include "state/state.h"

namespace softmig::sim {
namespace {

// An exported descriptor is an open of the state file itself. Its offset, which every duplicate in
// every process shares, says which object it stands for; its lock says that it is still open.
constexpr int64_t kNonces = int64_t{1} << 20;
constexpr int64_t kExportOffsets = int64_t{1} << 42;

bool is_row_live(const State& state, uint32_t index, uint32_t generation) {
  const ProcessRow& row = state.file().processes[index];
  return row.state.load(std::memory_order_acquire) == RowState::kLive &&
         row.generation.load(std::memory_order_relaxed) == generation;
}

bool is_holder(const State& state, const Sharer& sharer) {
  return sharer.count.load(std::memory_order_acquire) != 0 &&
         is_row_live(state, sharer.process, sharer.generation);
}

bool is_live(const ObjectRow& row) {
  return row.state.load(std::memory_order_acquire) == RowState::kLive;
}

Sharer* own_sharer(Process* process, ObjectRow* row) {
  for (Sharer& sharer : row->sharers) {
    if (sharer.count.load(std::memory_order_relaxed) != 0 && sharer.process == process->index() &&
        sharer.generation == process->generation()) {
      return &sharer;
    }
  }
  return nullptr;
}

bool add_sharer(Process* process, ObjectRow* row) {
  if (Sharer* mine = own_sharer(process, row)) {
    mine->count.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  for (Sharer& sharer : row->sharers) {
    if (is_holder(*process->state(), sharer)) continue;
    sharer.count.store(0, std::memory_order_relaxed);
    sharer.process = process->index();
    sharer.generation = process->generation();
    sharer.count.store(1, std::memory_order_release);
    return true;
  }
  return false;
}

ObjectRow* free_row(State* state, uint32_t* index) {
  StateFile& file = state->file();
  const uint32_t end = file.objects_end.load(std::memory_order_relaxed);
  for (*index = 0; *index < end; ++*index) {
    if (!is_live(file.objects[*index])) return &file.objects[*index];
  }
  if (end == kMaxObjects) return nullptr;
  file.objects_end.store(end + 1, std::memory_order_release);
  return &file.objects[end];
}

uint32_t next_nonce(State* state) {
  const uint32_t count = state->file().next_nonce.fetch_add(1, std::memory_order_relaxed);
  return count % (kNonces - 1) + 1;
}

bool is_held(const State& state, const ObjectRow& row) {
  for (const Sharer& sharer : row.sharers) {
    if (is_holder(state, sharer)) return true;
  }
  return false;
}

void drop(State* state, ObjectRow* row) {
  const auto index = static_cast<uint32_t>(row - state->file().objects);
  unlink(content_path(*state, {index, row->nonce}).c_str());
  row->state.store(RowState::kFree, std::memory_order_release);
  state->give(static_cast<int>(row->device), row->bytes);
}

// Which process lists the object: an index, or kMaxProcesses for nobody.
uint32_t lister(const State& state, const ObjectRow& row) {
  uint32_t first = kMaxProcesses;
  for (const Sharer& sharer : row.sharers) {
    if (!is_holder(state, sharer)) continue;
    if (sharer.process == row.maker && sharer.generation == row.maker_generation) return row.maker;
    if (first == kMaxProcesses) first = sharer.process;
  }
  return row.kind == ObjectKind::kVmm ? uint32_t{kMaxProcesses} : first;
}

}  // namespace

std::string content_path(const State& state, ObjectId id) {
  return state.path() + ".data." + std::to_string(id.index) + "." + std::to_string(id.nonce);
}

ObjectRow* find_object(State* state, ObjectId id) {
  if (!id || id.index >= state->file().objects_end.load(std::memory_order_acquire)) return nullptr;
  ObjectRow* row = &state->file().objects[id.index];
  return is_live(*row) && row->nonce == id.nonce ? row : nullptr;
}

ObjectId make_object(Process* process, ObjectKind kind, int device, uint64_t bytes, bool taken) {
  State* state = process->state();
  ObjectId id;
  ObjectRow* row = free_row(state, &id.index);
  if (row == nullptr || (!taken && !state->take(device, bytes))) return {};
  id.nonce = next_nonce(state);
  row->kind = kind;
  row->device = static_cast<uint32_t>(device);
  row->nonce = id.nonce;
  row->bytes = bytes;
  row->key = 0;
  row->maker = process->index();
  row->maker_generation = process->generation();
  row->exported = 0;
  for (Sharer& sharer : row->sharers) sharer.count.store(0, std::memory_order_relaxed);
  add_sharer(process, row);
  row->state.store(RowState::kLive, std::memory_order_release);
  if (taken) {
    ProcessRow& mine = state->file().processes[process->index()];
    mine.usage[device].listed.fetch_sub(bytes, std::memory_order_relaxed);
  }
  return id;
}

ObjectId hold_external(Process* process, int device, uint64_t bytes, uint64_t key) {
  StateFile& file = process->state()->file();
  const uint32_t end = file.objects_end.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < end; ++i) {
    ObjectRow& row = file.objects[i];
    if (!is_live(row) || row.kind != ObjectKind::kExternal || row.key != key) continue;
    return add_sharer(process, &row) ? ObjectId{i, row.nonce} : ObjectId{};
  }
  const ObjectId id = make_object(process, ObjectKind::kExternal, device, bytes, false);
  if (id) file.objects[id.index].key = key;
  return id;
}

bool hold_object(Process* process, ObjectId id) {
  ObjectRow* row = find_object(process->state(), id);
  return row != nullptr && add_sharer(process, row);
}

void release_object(Process* process, ObjectId id) {
  State* state = process->state();
  ObjectRow* row = find_object(state, id);
  Sharer* mine = row != nullptr ? own_sharer(process, row) : nullptr;
  if (mine == nullptr || mine->count.fetch_sub(1, std::memory_order_relaxed) > 1) return;
  if (is_held(*state, *row)) return;
  bool open_somewhere = false;
  if (row->exported != 0) {
    const int fd = open_state_again(*state);
    open_somewhere = fd >= 0 && is_locked(fd, kExportLocks + id.index);
    if (fd >= 0) close(fd);
  }
  if (!open_somewhere) drop(state, row);
}

int export_object(Process* process, ObjectId id) {
  ObjectRow* row = find_object(process->state(), id);
  const int fd = row != nullptr ? open_state_again(*process->state()) : -1;
  if (fd < 0) return -1;
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = kExportLocks + id.index;
  lock.l_len = 1;
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0 ||
      lseek(fd, kExportOffsets + id.index * kNonces + id.nonce, SEEK_SET) < 0) {
    close(fd);
    return -1;
  }
  row->exported = 1;
  return fd;
}

ObjectId object_of_descriptor(State* state, int fd) {
  struct stat theirs {
  }, ours{};
  if (fstat(fd, &theirs) != 0 || stat(state->path().c_str(), &ours) != 0) return {};
  if (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino) return {};
  const int64_t offset = lseek(fd, 0, SEEK_CUR) - kExportOffsets;
  if (offset <= 0) return {};
  const ObjectId id{static_cast<uint32_t>(offset / kNonces),
                    static_cast<uint32_t>(offset % kNonces)};
  return find_object(state, id) != nullptr ? id : ObjectId{};
}

bool drop_unheld_objects(State* state, int fd) {
  StateFile& file = state->file();
  bool found = false;
  const uint32_t end = file.objects_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    ObjectRow& row = file.objects[i];
    if (!is_live(row) || is_held(*state, row)) continue;
    if (row.exported != 0 && fd >= 0 && is_locked(fd, kExportLocks + i)) continue;
    drop(state, &row);
    found = true;
  }
  return found;
}

void add_object_bytes(const State& state, uint64_t (&used)[kMaxDevices]) {
  const uint32_t end = state.file().objects_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    const ObjectRow& row = state.file().objects[i];
    if (is_live(row)) used[row.device] += row.bytes;
  }
}

uint64_t listed_object_bytes(const State& state, uint32_t index, int device) {
  uint64_t bytes = 0;
  const uint32_t end = state.file().objects_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    const ObjectRow& row = state.file().objects[i];
    if (is_live(row) && row.device == static_cast<uint32_t>(device) && lister(state, row) == index)
      bytes += row.bytes;
  }
  return bytes;
}

}  // namespace softmig::sim
