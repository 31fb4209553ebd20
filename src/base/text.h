// A bounded line of text in somebody else's array: always ends in NUL, never allocates, and says
// when something did not fit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace softmig::base {

// Parts of a text, as substr without its exceptions: a place past the end is the end.
constexpr std::string_view head(std::string_view text, size_t size) {
  return {text.data(), size < text.size() ? size : text.size()};
}
constexpr std::string_view tail(std::string_view text, size_t from) {
  if (from > text.size()) from = text.size();
  return {text.data() + from, text.size() - from};
}

class Text {
 public:
  // Starts empty: what the array held before is gone. `capacity` counts the final NUL and is not 0.
  Text(char* buffer, size_t capacity) : buffer_(buffer), capacity_(capacity) { clear(); }
  template <size_t N>
  explicit Text(char (&buffer)[N]) : Text(buffer, N) {}

  // What does not fit is cut off at the end.
  Text& add(std::string_view text);
  Text& add(const char* text) { return add(std::string_view(text != nullptr ? text : "(null)")); }
  Text& add(char byte) { return add(std::string_view(&byte, 1)); }
  // As add, but control bytes, bytes beyond ASCII and the backslash appear as \xNN, so that foreign
  // text can neither end a line nor move a terminal's cursor.
  Text& add_escaped(std::string_view text);
  // Decimal, padded on the left with zeros to `width` digits.
  Text& add_number(uint64_t value, int width = 0);
  Text& add_hex(uint64_t value, int width = 0);

  void clear();
  bool overflowed() const { return overflowed_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {buffer_, size_}; }

 private:
  Text& add_digits(uint64_t value, unsigned base, int width);

  char* buffer_;
  size_t capacity_;
  size_t size_ = 0;
  bool overflowed_ = false;
};

}  // namespace softmig::base
