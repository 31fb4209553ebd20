// What this process was given by the driver: handle or address -> how it was charged. Open
// addressing over pages of our own (the program's allocator is not ours to call). Emptied in a fork
// child, which owns none of it.
#pragma once

#include <cstdint>

#include "job/slice.h"
#include "sys/futex.h"

namespace softmig::cuda {

struct Record {
  uint64_t bytes = 0;    // charged or, for packed things, asked for
  uint64_t detail = 0;   // meaning is the table's
  uint32_t context = 0;  // id of the context that owns it, 0: none
  int16_t device = -1;   // index in the region
  int16_t object = -1;   // exported: index of the shared object that carries the charge
};

class alignas(64) Table {
 public:
  // False if no memory could be had for it; then nothing is kept.
  bool insert(uint64_t key, const Record& record);
  // As insert; true if that displaced the record of something that the driver has ended already.
  bool replace(uint64_t key, const Record& record, Record* displaced);
  bool find(uint64_t key, Record* record);
  bool take(uint64_t key, Record* record);
  // Changes a record in place under the lock; false if there is none. `change` returns true to keep
  // the record and false to remove it.
  template <typename Change>
  bool update(uint64_t key, Change change) {
    Lock lock(*this);
    Entry* entry = locate(key);
    if (entry == nullptr) return false;
    if (!change(entry->record)) erase(entry);
    return true;
  }
  // As update, of a record that is made if it is not there.
  template <typename Change>
  bool update_or_insert(uint64_t key, Change change) {
    Lock lock(*this);
    Entry* entry = locate(key);
    if (entry == nullptr) entry = place(key);
    if (entry == nullptr) return false;
    if (!change(entry->record)) erase(entry);
    return true;
  }
  // Takes out any one record of the context; false if none is left.
  bool take_one_of(uint32_t context, uint64_t* key, Record* record);
  bool empty() const { return count_.load(std::memory_order_relaxed) == 0; }

 private:
  struct Entry {
    uint64_t key;  // 0: free
    Record record;
  };
  class Lock {
   public:
    explicit Lock(Table& table) : table_(table) { table_.enter(); }
    ~Lock() { table_.lock_.unlock(); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Table& table_;
  };

  void enter();
  Entry* locate(uint64_t key);
  Entry* place(uint64_t key);
  void erase(Entry* entry);
  bool grow();
  uint64_t slot_of(uint64_t key) const { return key * 0x9e3779b97f4a7c15 >> shift_; }

  sys::Mutex lock_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint64_t> count_{0};
  Entry* entries_ = nullptr;
  uint64_t capacity_ = 0;  // a power of two
  uint32_t shift_ = 64;
};

}  // namespace softmig::cuda
