#include "base/bytes.h"

namespace softmig::base {
namespace {

constexpr uint64_t kLargest = INT64_MAX;

bool is_blank(char byte) { return byte == ' ' || byte == '\t' || byte == '\r'; }
bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }
char lower(char byte) { return byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + 32) : byte; }

std::string_view take_digits(std::string_view* text) {
  size_t count = 0;
  while (count < text->size() && is_digit((*text)[count])) count++;
  const std::string_view digits = head(*text, count);
  text->remove_prefix(count);
  return digits;
}

// "", "k", "KB", "kib" and so on for M, G, T. 0: no such unit.
uint64_t unit_bytes(std::string_view unit) {
  if (unit.empty()) return 1;
  uint64_t bytes = 0;
  switch (lower(unit[0])) {
    case 'k':
      bytes = kKiB;
      break;
    case 'm':
      bytes = kMiB;
      break;
    case 'g':
      bytes = kGiB;
      break;
    case 't':
      bytes = kTiB;
      break;
    default:
      return 0;
  }
  unit.remove_prefix(1);
  if (!unit.empty() && lower(unit.back()) == 'b') {
    unit.remove_suffix(1);
    if (!unit.empty() && lower(unit.back()) == 'i') unit.remove_suffix(1);
  }
  return unit.empty() ? bytes : 0;
}

bool whole_part(std::string_view digits, uint64_t unit, uint64_t* bytes) {
  uint64_t value = 0;
  for (const char digit : digits) {
    value = value * 10 + static_cast<uint64_t>(digit - '0');
    if (value > kLargest / unit) return false;
  }
  *bytes = value * unit;
  return true;
}

// From the last digit to the first, so that any number of digits is exact.
uint64_t fraction_part(std::string_view digits, uint64_t unit) {
  uint64_t bytes = 0;
  for (size_t i = digits.size(); i > 0; i--) {
    bytes = (static_cast<uint64_t>(digits[i - 1] - '0') * unit + bytes) / 10;
  }
  return bytes;
}

bool all_zero(std::string_view digits) {
  return digits.find_first_not_of('0') == std::string_view::npos;
}

}  // namespace

std::string_view trim_blanks(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

bool parse_size(std::string_view text, uint64_t* bytes) {
  text = trim_blanks(text);
  const std::string_view whole = take_digits(&text);
  std::string_view fraction;
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    fraction = take_digits(&text);
    if (fraction.empty()) return false;
  }
  const uint64_t unit = unit_bytes(trim_blanks(text));
  uint64_t value = 0;
  if (whole.empty() || unit == 0 || !whole_part(whole, unit, &value)) return false;
  const uint64_t rest = fraction_part(fraction, unit);
  if (rest > kLargest - value) return false;
  value += rest;
  if (value == 0 && !(all_zero(whole) && all_zero(fraction))) return false;
  *bytes = value;
  return true;
}

void add_size(Text& text, uint64_t bytes) {
  if (bytes < kKiB) {
    text.add_number(bytes).add(" B");
    return;
  }
  // The largest unit in which the rounded value does not reach 1024 of the unit below.
  constexpr std::string_view kNames[] = {" KiB", " MiB", " GiB", " TiB"};
  uint64_t unit = kKiB;
  size_t name = 0;
  while (name + 1 < std::size(kNames) && bytes >= unit * kKiB - unit / 20) {
    unit *= kKiB;
    name++;
  }
  const uint64_t whole = bytes / unit;
  const uint64_t tenths = (bytes % unit * 10 + unit / 2) / unit;  // 10 rounds up to the next whole
  text.add_number(whole + tenths / 10).add(".").add_number(tenths % 10).add(kNames[name]);
}

}  // namespace softmig::base
