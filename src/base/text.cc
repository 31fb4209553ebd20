#include "base/text.h"

#include <cstring>

namespace softmig::base {
namespace {
constexpr char kDigits[] = "0123456789abcdef";

bool is_plain(char byte) { return byte >= ' ' && byte <= '~' && byte != '\\'; }
}  // namespace

void Text::clear() {
  size_ = 0;
  overflowed_ = false;
  buffer_[0] = '\0';
}

Text& Text::add(std::string_view text) {
  const size_t room = capacity_ - 1 - size_;
  if (text.size() > room) {
    overflowed_ = true;
    text = head(text, room);
  }
  if (!text.empty()) memcpy(buffer_ + size_, text.data(), text.size());
  size_ += text.size();
  buffer_[size_] = '\0';
  return *this;
}

Text& Text::add_escaped(std::string_view text) {
  for (const char byte : text) {
    const auto value = static_cast<unsigned char>(byte);
    if (is_plain(byte)) {
      add(byte);
    } else {
      const char code[] = {'\\', 'x', kDigits[value >> 4], kDigits[value & 15]};
      add(std::string_view(code, sizeof code));
    }
  }
  return *this;
}

Text& Text::add_digits(uint64_t value, unsigned base, int width) {
  char digits[64];
  size_t first = sizeof digits;
  do {
    digits[--first] = kDigits[value % base];
    value /= base;
  } while (value != 0);
  while (first > 0 && static_cast<int>(sizeof digits - first) < width) digits[--first] = '0';
  return add(std::string_view(digits + first, sizeof digits - first));
}

Text& Text::add_number(uint64_t value, int width) { return add_digits(value, 10, width); }
Text& Text::add_hex(uint64_t value, int width) { return add_digits(value, 16, width); }

}  // namespace softmig::base
