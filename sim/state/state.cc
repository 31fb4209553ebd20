#include "state/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "state/activity.h"
#include "state/liveness.h"
#include "state/objects.h"
#include "state/schedule.h"
#include "state/settings.h"

namespace softmig::sim {
namespace {

constexpr const char* kDefaultGeometry = "1x80G:h100";
constexpr uint64_t kLookForDeadNs = 10'000'000;

// Without O_CREAT first: the kernel refuses O_CREAT on other people's files in /tmp.
int open_or_make(const std::string& path) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT) return fd;
    fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
    if (fd >= 0) {
      fchmod(fd, 0666);
      return fd;
    }
    if (errno != EEXIST) return -1;
  }
  return -1;
}

// Spread over all bits, so that an abbreviated UUID is soon unique.
uint64_t scramble(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void fill_device(DeviceRow* row, const Settings& settings, size_t index) {
  const Settings::Card& card = settings.cards[index];
  const Model& model = *card.model;
  std::strncpy(row->name, std::string(model.name).c_str(), sizeof row->name - 1);
  const uint64_t high = scramble(2 * index + 11), low = scramble(2 * index + 12);
  std::memcpy(row->uuid, &high, 8);
  std::memcpy(row->uuid + 8, &low, 8);
  row->pci_domain = 0;
  row->pci_bus = static_cast<uint32_t>(0x1b + 0x0c * index);
  row->pci_slot = 0;
  row->pci_device_id = model.pci_device_id;
  row->total = card.memory;
  row->reserved = settings.reserved != 0 ? settings.reserved : round_up(card.memory / 128, kPage);
  row->multiprocessors = model.multiprocessors;
  row->threads_per_multiprocessor = model.threads_per_multiprocessor;
  row->major = model.major;
  row->minor = model.minor;
  row->clock_khz = model.clock_khz;
  row->memory_clock_khz = model.memory_clock_khz;
  row->bus_bits = model.bus_bits;
  row->l2_bytes = model.l2_bytes;
  row->shared_per_multiprocessor = model.shared_per_multiprocessor;
}

void make_mutex(pthread_mutex_t* mutex) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

void fill(StateFile* file, const Settings& settings) {
  file->version = kStateVersion;
  file->device_count = static_cast<uint32_t>(settings.cards.size());
  file->context_listed = settings.context_listed;
  file->context_unlisted = settings.context_unlisted;
  file->base = settings.base;
  file->managed = settings.managed;
  file->kernel_ns = settings.kernel_ns;
  file->slice_ns = settings.slice_ns;
  file->switch_ns = settings.switch_ns;
  file->refill_ns = settings.refill_ns;
  file->accounting = settings.accounting;
  file->unknown = settings.unknown;
  make_mutex(&file->mutex);
  for (size_t i = 0; i < settings.cards.size(); ++i) fill_device(&file->devices[i], settings, i);
  file->magic.store(kStateMagic, std::memory_order_release);
}

// Whoever comes first makes the content, under a lock that its death releases.
bool make_content(int fd, StateFile* file, std::string* error) {
  flock(fd, LOCK_EX);
  bool good = file->magic.load(std::memory_order_acquire) == kStateMagic;
  if (!good) {
    const char* geometry = getenv("SOFTMIG_SIM");
    Settings settings;
    good = parse_settings(geometry != nullptr ? geometry : kDefaultGeometry, &settings, error);
    if (good) fill(file, settings);
  }
  flock(fd, LOCK_UN);
  return good;
}

StateFile* map_file(const std::string& path, struct stat* info, std::string* error) {
  const int fd = open_or_make(path);
  if (fd < 0 || fstat(fd, info) != 0 ||
      (info->st_size < static_cast<off_t>(sizeof(StateFile)) &&
       ftruncate(fd, sizeof(StateFile)) != 0)) {
    *error = path + ": " + std::strerror(errno);
    if (fd >= 0) close(fd);
    return nullptr;
  }
  void* at = mmap(nullptr, sizeof(StateFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  auto* file = at == MAP_FAILED ? nullptr : static_cast<StateFile*>(at);
  if (file == nullptr) *error = path + ": " + std::strerror(errno);
  if (file != nullptr && !make_content(fd, file, error)) file = nullptr;
  if (file != nullptr && file->version != kStateVersion) {
    *error = path + " was made by another version: remove it";
    file = nullptr;
  }
  close(fd);
  return file;
}

}  // namespace

std::string state_path() {
  const char* path = getenv("SOFTMIG_SIM_STATE");
  if (path != nullptr && *path != '\0') return path;
  return "/tmp/softmig-sim." + std::to_string(geteuid());
}

State* State::open(std::string* error) {
  static std::mutex mutex;
  static State* state = nullptr;
  const std::lock_guard lock(mutex);
  if (state != nullptr) return state;
  const std::string path = std::filesystem::absolute(state_path());
  struct stat info {};
  StateFile* file = map_file(path, &info, error);
  if (file != nullptr) state = new State(file, path, info.st_dev, info.st_ino);
  return state;
}

State::Guard::Guard(State* state) : state_(state) {
  if (pthread_mutex_lock(&state->file_->mutex) == EOWNERDEAD) {
    state->recover();
    pthread_mutex_consistent(&state->file_->mutex);
  }
}

State::Guard::~Guard() { pthread_mutex_unlock(&state_->file_->mutex); }

void State::recover() {
  file_->recoveries.fetch_add(1, std::memory_order_relaxed);
  sweep(Care::kThorough);
  recount();
  Schedule(file_).repair(monotonic_ns());
}

bool State::sweep(Care care) {
  const int fd = open_state_again(*this);
  bool found = false;
  const uint32_t end = file_->processes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    ProcessRow& row = file_->processes[i];
    if (row.state.load(std::memory_order_acquire) != RowState::kLive || is_alive(fd, row, i, care))
      continue;
    row.state.store(RowState::kFree, std::memory_order_release);
    found = true;
  }
  found |= drop_unheld_objects(this, fd);
  if (fd >= 0) close(fd);
  if (!found) return false;
  recount();
  Schedule schedule(file_);
  const uint64_t now = monotonic_ns();
  schedule.advance(now);
  schedule.drop_orphans(now);
  return true;
}

uint64_t State::catch_up() {
  const uint64_t now = monotonic_ns();
  Schedule schedule(file_);
  schedule.advance(now);
  bool contended = false;
  for (uint32_t d = 0; d < file_->device_count; ++d) contended |= schedule.is_contended(d);
  if (contended && now - file_->looked_for_dead_ns > kLookForDeadNs) {
    file_->looked_for_dead_ns = now;
    if (has_dead_workers()) sweep(Care::kThorough);
    const uint64_t later = monotonic_ns();
    schedule.advance(later);
    return later;
  }
  return now;
}

uint64_t State::catch_up_figures() {
  const uint64_t now = catch_up();
  Schedule(file_).book(now);
  return now;
}

bool State::has_dead_workers() {
  const int fd = open_state_again(*this);
  bool found = false;
  const uint32_t end = file_->contexts_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end && !found; ++i) {
    const ContextRow& context = file_->contexts[i];
    if (context.state.load(std::memory_order_acquire) != RowState::kLive) continue;
    found = !is_alive(fd, file_->processes[context.process], context.process, Care::kQuick);
  }
  if (fd >= 0) close(fd);
  return found;
}

void State::recount() {
  uint64_t used[kMaxDevices] = {};
  bool attached[kMaxDevices] = {};
  const uint32_t end = file_->processes_end.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < end; ++i) {
    const ProcessRow& row = file_->processes[i];
    if (row.state.load(std::memory_order_acquire) != RowState::kLive) continue;
    for (uint32_t d = 0; d < file_->device_count; ++d) {
      used[d] += row.usage[d].listed.load(std::memory_order_relaxed) +
                 row.usage[d].unlisted.load(std::memory_order_relaxed);
      attached[d] |= row.usage[d].attached.load(std::memory_order_relaxed) != 0;
    }
  }
  add_object_bytes(*this, used);
  for (uint32_t d = 0; d < file_->device_count; ++d) {
    file_->devices[d].used.store(used[d] + (attached[d] ? file_->base : 0),
                                 std::memory_order_relaxed);
  }
}

uint64_t State::available(int device) const {
  const DeviceRow& row = file_->devices[device];
  const uint64_t taken = row.reserved + row.used.load(std::memory_order_relaxed);
  return row.total > taken ? row.total - taken : 0;
}

bool State::take(int device, uint64_t bytes) {
  if (bytes > available(device) && (!sweep(Care::kThorough) || bytes > available(device)))
    return false;
  file_->devices[device].used.fetch_add(bytes, std::memory_order_relaxed);
  return true;
}

void State::give(int device, uint64_t bytes) {
  file_->devices[device].used.fetch_sub(bytes, std::memory_order_relaxed);
}

}  // namespace softmig::sim
