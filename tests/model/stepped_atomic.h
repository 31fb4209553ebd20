// Forced into every source of the model check (-include): std::atomic becomes a type whose accesses
// to the shared region are the steps of the search. The sources themselves are those that ship.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace softmig::model {

// Called before each access: another process may run here, or this one may die. False if the word
// takes no part in the protocol (statistics for views): it then is not kept.
enum class Access { kRead, kWrite };
bool step(const void* word, Access access);
// What the process learnt: two processes that learnt the same go on in the same way.
void learn(uint64_t value);

}  // namespace softmig::model

namespace std {

template <typename T>
class stepped_atomic {
 public:
  static constexpr bool is_always_lock_free = atomic<T>::is_always_lock_free;

  constexpr stepped_atomic() = default;
  constexpr stepped_atomic(T value) : value_(value) {}
  stepped_atomic(const stepped_atomic&) = delete;
  stepped_atomic& operator=(const stepped_atomic&) = delete;

  T load(memory_order = memory_order_seq_cst) const {
    if (!softmig::model::step(this, softmig::model::Access::kRead)) return T{};
    return told(value_);
  }
  void store(T value, memory_order = memory_order_seq_cst) {
    if (softmig::model::step(this, softmig::model::Access::kWrite)) value_ = value;
  }
  T exchange(T value, memory_order = memory_order_seq_cst) {
    if (!softmig::model::step(this, softmig::model::Access::kWrite)) return T{};
    const T old = value_;
    value_ = value;
    return told(old);
  }
  bool compare_exchange_strong(T& expected, T value, memory_order = memory_order_seq_cst,
                               memory_order = memory_order_seq_cst) {
    if (!softmig::model::step(this, softmig::model::Access::kWrite)) return true;
    const bool same = value_ == expected;
    if (same) {
      value_ = value;
    } else {
      expected = value_;
    }
    told(expected);
    return softmig::model::learn(same), same;
  }
  bool compare_exchange_weak(T& expected, T value, memory_order = memory_order_seq_cst,
                             memory_order = memory_order_seq_cst) {
    return compare_exchange_strong(expected, value);
  }
  T fetch_add(T value, memory_order = memory_order_seq_cst) {
    if (!softmig::model::step(this, softmig::model::Access::kWrite)) return T{};
    const T old = value_;
    value_ = static_cast<T>(value_ + value);
    return told(old);
  }
  operator T() const { return load(); }
  T operator=(T value) { return store(value), value; }

 private:
  static T told(T value) {
    softmig::model::learn(static_cast<uint64_t>(value));
    return value;
  }

  T value_{};
};

}  // namespace std

#define atomic stepped_atomic
