// Text put together in a buffer of fixed size: always ended by a zero byte, never written past.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace softmig::base {

class Text {
 public:
  template <size_t kSize>
  explicit Text(char (&buffer)[kSize]) : Text(buffer, kSize) {}
  Text(char* buffer, size_t size) : buffer_(buffer), capacity_(size - 1) { clear(); }

  Text& add(std::string_view text) {
    for (char c : text) {
      if (length_ == capacity_) {
        overflowed_ = true;
        break;
      }
      buffer_[length_++] = c;
    }
    buffer_[length_] = 0;
    return *this;
  }
  Text& add_number(uint64_t value) {
    char digits[20];
    size_t count = 0;
    do {
      digits[count++] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    while (count > 0) add({&digits[--count], 1});
    return *this;
  }
  void clear() {
    length_ = 0;
    overflowed_ = false;
    buffer_[0] = 0;
  }
  std::string_view view() const { return {buffer_, length_}; }
  bool overflowed() const { return overflowed_; }

 private:
  char* buffer_;
  size_t capacity_, length_ = 0;
  bool overflowed_ = false;
};

}  // namespace softmig::base
