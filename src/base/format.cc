#include "base/format.h"

#include <cstring>

namespace softmig::base {
namespace {

constexpr int kNoPrecision = -1, kMaxPrecision = 9, kMaxWidth = 32;

struct Conversion {
  int width = 0;
  int precision = kNoPrecision;
  bool wide = false;     // 64 bits
  bool escaped = false;  // a text that needs no escaping any more
  char kind = '\0';
};

int take_number(const char** at, int largest) {
  int number = 0;
  for (; **at >= '0' && **at <= '9'; (*at)++) {
    number = number * 10 + (**at - '0');
    if (number > largest) number = largest;
  }
  return number;
}

// A text of at most `precision` bytes need not end in NUL.
void add_string(Text& text, const char* string, int precision, bool escaped) {
  if (string == nullptr) string = "(null)";
  size_t length = 0;
  while ((precision < 0 || length < static_cast<size_t>(precision)) && string[length] != '\0') {
    length++;
  }
  escaped ? text.add({string, length}) : text.add_escaped({string, length});
}

void add_signed(Text& text, int64_t value, int width) {
  if (value >= 0) {
    text.add_number(static_cast<uint64_t>(value), width);
  } else {
    text.add('-').add_number(0 - static_cast<uint64_t>(value), width - 1);
  }
}

void add_real(Text& text, double value, int precision) {
  if (value != value) {
    text.add("nan");
    return;
  }
  if (value < 0) {
    text.add('-');
    value = -value;
  }
  if (precision < 0) precision = 6;
  if (precision > kMaxPrecision) precision = kMaxPrecision;
  uint64_t scale = 1;
  for (int i = 0; i < precision; i++) scale *= 10;
  if (!(value < 9e18 / static_cast<double>(scale))) {
    text.add("huge");
    return;
  }
  const double exact = value * static_cast<double>(scale);
  auto scaled = static_cast<uint64_t>(exact);
  if (exact - static_cast<double>(scaled) >= 0.5) scaled++;
  text.add_number(scaled / scale);
  if (precision > 0) text.add('.').add_number(scaled % scale, precision);
}

// Reads what stands between '%' and the letter of the conversion. False: not one that we know.
// A precision of "*" is taken from the arguments by the caller.
bool read_conversion(const char** at, Conversion* conversion, bool* star) {
  conversion->escaped = (*at)[0] == '-' && (*at)[1] == 's';
  if (**at == '0' || conversion->escaped) (*at)++;
  conversion->width = take_number(at, kMaxWidth);
  if (**at == '.') {
    (*at)++;
    *star = **at == '*';
    if (*star) (*at)++;
    conversion->precision = *star ? kNoPrecision : take_number(at, INT32_MAX / 16);
  }
  while (**at == 'l' || **at == 'z' || **at == 't') {
    conversion->wide = true;
    (*at)++;
  }
  conversion->kind = **at;
  if (conversion->kind == '\0' || strchr("scdiuxpf%", conversion->kind) == nullptr) return false;
  (*at)++;
  return true;
}

}  // namespace

void format(Text& text, const char* format, va_list arguments) {
  const char* at = format;
  while (*at != '\0') {
    const size_t plain = strcspn(at, "%");
    text.add({at, plain});
    at += plain;
    if (*at == '\0') return;
    const char* rest = at++;
    Conversion it;
    bool star = false;
    if (!read_conversion(&at, &it, &star)) {
      text.add(rest);
      return;
    }
    if (star) it.precision = va_arg(arguments, int);
    switch (it.kind) {
      case '%':
        text.add('%');
        break;
      case 's':
        add_string(text, va_arg(arguments, const char*), it.precision, it.escaped);
        break;
      case 'p':
        text.add("0x").add_hex(va_arg(arguments, uintptr_t));
        break;
      case 'f':
        add_real(text, va_arg(arguments, double), it.precision);
        break;
      case 'c': {
        const char byte = static_cast<char>(va_arg(arguments, int));
        text.add_escaped({&byte, 1});
        break;
      }
      case 'd':
      case 'i':
        add_signed(text, it.wide ? va_arg(arguments, int64_t) : va_arg(arguments, int), it.width);
        break;
      default: {
        const uint64_t value = it.wide ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned);
        it.kind == 'x' ? text.add_hex(value, it.width) : text.add_number(value, it.width);
      }
    }
  }
}

void format(Text& text, const char* format_text, ...) {
  va_list arguments;
  va_start(arguments, format_text);
  format(text, format_text, arguments);
  va_end(arguments);
}

}  // namespace softmig::base
