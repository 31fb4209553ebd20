#include "cuda/table.h"

#include "sys/memory.h"

namespace softmig::cuda {
namespace {
constexpr uint64_t kFirstCapacity = 256;
constexpr uint32_t kFirstShift = 64 - 8;
}  // namespace

void Table::enter() {
  const uint32_t now = job::slice().generation();
  uint32_t seen = generation_.load(std::memory_order_acquire);
  if (seen != now && generation_.compare_exchange_strong(seen, now)) {
    // A fork child: the lock may be held by a thread that does not exist here.
    lock_.reset();
    sys::unmap_pages(entries_, capacity_ * sizeof(Entry));
    entries_ = nullptr;
    capacity_ = 0;
    count_.store(0, std::memory_order_relaxed);
  }
  lock_.lock();
}

Table::Entry* Table::locate(uint64_t key) {
  if (capacity_ == 0 || key == 0) return nullptr;  // 0 marks a free place, and is nobody's key
  for (uint64_t i = slot_of(key);; i = (i + 1) & (capacity_ - 1)) {
    if (entries_[i].key == key) return &entries_[i];
    if (entries_[i].key == 0) return nullptr;
  }
}

bool Table::grow() {
  const uint64_t capacity = capacity_ == 0 ? kFirstCapacity : capacity_ * 2;
  auto* fresh = static_cast<Entry*>(sys::map_pages(capacity * sizeof(Entry)));
  if (fresh == nullptr) return false;
  Entry* old = entries_;
  const uint64_t old_capacity = capacity_;
  shift_ = old_capacity == 0 ? kFirstShift : shift_ - 1;
  entries_ = fresh;
  capacity_ = capacity;
  for (uint64_t i = 0; i < old_capacity; i++) {
    if (old[i].key == 0) continue;
    uint64_t to = slot_of(old[i].key);
    while (fresh[to].key != 0) to = (to + 1) & (capacity - 1);
    fresh[to] = old[i];
  }
  sys::unmap_pages(old, old_capacity * sizeof(Entry));
  return true;
}

Table::Entry* Table::place(uint64_t key) {
  const uint64_t count = count_.load(std::memory_order_relaxed);
  if (key == 0 || ((count + 1) * 4 > capacity_ * 3 && !grow())) return nullptr;
  uint64_t i = slot_of(key);
  while (entries_[i].key != 0) i = (i + 1) & (capacity_ - 1);
  entries_[i] = {key, Record{}};
  count_.store(count + 1, std::memory_order_relaxed);
  return &entries_[i];
}

// Moves later entries of the same run back, so that no mark of the removed one is needed.
void Table::erase(Entry* entry) {
  auto hole = static_cast<uint64_t>(entry - entries_);
  const uint64_t mask = capacity_ - 1;
  for (uint64_t i = (hole + 1) & mask; entries_[i].key != 0; i = (i + 1) & mask) {
    const uint64_t home = slot_of(entries_[i].key);
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    entries_[hole] = entries_[i];
    hole = i;
  }
  entries_[hole].key = 0;
  count_.store(count_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

bool Table::insert(uint64_t key, const Record& record) {
  return update_or_insert(key, [&](Record& kept) {
    kept = record;
    return true;
  });
}

bool Table::replace(uint64_t key, const Record& record, Record* displaced) {
  bool found = false;
  update_or_insert(key, [&](Record& kept) {
    found = kept.device >= 0;  // what is new has none
    *displaced = kept;
    kept = record;
    return true;
  });
  return found;
}

bool Table::find(uint64_t key, Record* record) {
  return update(key, [&](Record& kept) {
    *record = kept;
    return true;
  });
}

bool Table::take(uint64_t key, Record* record) {
  return update(key, [&](Record& kept) {
    *record = kept;
    return false;
  });
}

bool Table::take_one_of(uint32_t context, uint64_t* key, Record* record) {
  Lock lock(*this);
  for (uint64_t i = 0; i < capacity_; i++) {
    Entry& entry = entries_[i];
    if (entry.key == 0 || entry.record.context != context) continue;
    *key = entry.key;
    *record = entry.record;
    erase(&entry);
    return true;
  }
  return false;
}

}  // namespace softmig::cuda
