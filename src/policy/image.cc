#include "policy/image.h"

#include <string_view>

#include "base/text.h"

namespace softmig::policy {
namespace {

using Bytes = std::span<const uint8_t>;

constexpr uint32_t kWrapperMagic = 0x466243b1, kFatbinMagic = 0xba55ed50, kElfMagic = 0x464c457f;
constexpr uint16_t kKindPtx = 1, kKindElf = 2;
// Bits of a part's flags that say that its text is compressed, by either of two methods.
constexpr uint64_t kCompressed = 0x2000 | 0x8000;
constexpr uint64_t kMaxText = 64 << 20;

template <typename T>
T read(Bytes bytes, uint64_t offset) {
  T value = 0;
  if (offset + sizeof value <= bytes.size()) {
    __builtin_memcpy(&value, bytes.data() + offset, sizeof value);
  }
  return value;
}

Bytes part(Bytes bytes, uint64_t offset, uint64_t size) {
  if (offset > bytes.size() || size > bytes.size() - offset) return {};
  return bytes.subspan(offset, size);
}

uint64_t add(uint64_t a, uint64_t b) { return a + b >= a ? a + b : UINT64_MAX; }

// --- ELF: the sections .nv.global (zeroed) and .nv.global.init

constexpr uint64_t kElfHeader = 64, kSectionHeader = 64;
constexpr uint8_t kElf64 = 2;
constexpr uint16_t kCudaMachine = 190;

// The sizes that any other file states are not those of memory that can be read: the driver refuses
// it by these two fields, before it looks further.
bool is_cubin(Bytes header) {
  return read<uint32_t>(header, 0) == kElfMagic && read<uint8_t>(header, 4) == kElf64 &&
         read<uint16_t>(header, 0x12) == kCudaMachine;
}

struct Sections {
  uint64_t offset, count, names;  // names: offset of the section name strings
};

Sections sections_of(Bytes elf) {
  Sections s{read<uint64_t>(elf, 0x28), read<uint16_t>(elf, 0x3c), 0};
  const uint64_t index = read<uint16_t>(elf, 0x3e);
  if (s.offset > elf.size() || s.count > (elf.size() - s.offset) / kSectionHeader) s.count = 0;
  if (index < s.count) s.names = read<uint64_t>(elf, s.offset + index * kSectionHeader + 0x18);
  return s;
}

bool starts_with(Bytes elf, uint64_t offset, std::string_view text) {
  const Bytes found = part(elf, offset, text.size());
  return found.size() == text.size() &&
         __builtin_memcmp(found.data(), text.data(), text.size()) == 0;
}

// End of the last symbol that lies in a section: compilers cut a section's own size to 32 bits.
uint64_t symbols_end(Bytes elf, const Sections& sections, uint64_t section) {
  constexpr uint32_t kSymbolTable = 2;
  constexpr uint64_t kSymbol = 24;
  uint64_t end = 0;
  for (uint64_t i = 0; i < sections.count; i++) {
    const uint64_t header = sections.offset + i * kSectionHeader;
    if (read<uint32_t>(elf, header + 4) != kSymbolTable) continue;
    const Bytes table =
        part(elf, read<uint64_t>(elf, header + 0x18), read<uint64_t>(elf, header + 0x20));
    for (uint64_t at = 0; at + kSymbol <= table.size(); at += kSymbol) {
      if (read<uint16_t>(table, at + 6) != section) continue;
      const uint64_t last = add(read<uint64_t>(table, at + 8), read<uint64_t>(table, at + 16));
      if (last > end) end = last;
    }
  }
  return end;
}

uint64_t globals_in_elf(Bytes elf) {
  const Sections sections = sections_of(elf);
  uint64_t bytes = 0;
  for (uint64_t i = 0; i < sections.count; i++) {
    const uint64_t header = sections.offset + i * kSectionHeader;
    const uint64_t name = add(sections.names, read<uint32_t>(elf, header));
    if (!starts_with(elf, name, ".nv.global")) continue;
    const uint64_t size = read<uint64_t>(elf, header + 0x20), end = symbols_end(elf, sections, i);
    bytes = add(bytes, size > end ? size : end);
  }
  return bytes;
}

uint64_t elf_size(Bytes header) {
  const uint64_t sections = read<uint64_t>(header, 0x28), segments = read<uint64_t>(header, 0x20);
  const uint64_t after_sections =
      sections + uint64_t{read<uint16_t>(header, 0x3c)} * kSectionHeader;
  const uint64_t after_segments = segments + uint64_t{read<uint16_t>(header, 0x38)} * 56;
  return after_sections > after_segments ? after_sections : after_segments;
}

// --- PTX: ".global .align 4 .b8 name[123];", ".visible .global .f32 x;"

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}
  // Next word, bracket or punctuation mark; empty at the end. Directives that are written as one
  // (".v4.f32") come one by one, an instruction ("ld.global.u32") as a whole. Comments and quoted
  // texts are skipped.
  std::string_view next() {
    skip();
    if (text_.empty()) return {};
    size_t length = 1;
    while (length < text_.size() && goes_on(text_[0], text_[length], length)) length++;
    const std::string_view word = text_.substr(0, length);
    text_.remove_prefix(length);
    return word;
  }

 private:
  static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '$' || c == '%';
  }
  // Whether the word that begins with `first` has `c` at this place.
  static bool goes_on(char first, char c, size_t at) {
    if (!is_word(first) || !is_word(c)) return false;
    if (first == '.') return c != '.';
    if (is_digit(first)) return c != '.' && c != '%';
    return first != '%' || at > 1 || !is_digit(c);  // "%" begins the name of a register, or divides
  }
  void skip() {
    for (;;) {
      while (!text_.empty() && (text_[0] == ' ' || (text_[0] >= '\t' && text_[0] <= '\r'))) {
        text_.remove_prefix(1);
      }
      size_t end;
      if (text_.starts_with("//")) {
        end = text_.find('\n');
      } else if (text_.starts_with("/*")) {
        end = text_.find("*/");
        if (end != text_.npos) end += 2;
      } else if (text_.starts_with('"')) {  // the name of a file may look like anything
        end = text_.find('"', 1);
        if (end != text_.npos) end += 1;
      } else {
        return;
      }
      text_.remove_prefix(end == text_.npos ? text_.size() : end);
    }
  }
  std::string_view text_;
};

// As PTX writes them: 12, 0x1f, 017, 0b101, each with or without a U. What is too large is the
// largest.
uint64_t parse_number(std::string_view word) {
  uint64_t value = 0, base = 10;
  const char second = word.size() > 1 && word[0] == '0' ? static_cast<char>(word[1] | 0x20) : '1';
  if (word.size() > 1 && word[0] == '0') base = second == 'x' ? 16 : second == 'b' ? 2 : 8;
  if (base == 16 || base == 2) word.remove_prefix(2);
  for (char c : word) {
    const uint64_t digit =
        is_digit(c) ? static_cast<uint64_t>(c - '0') : static_cast<uint64_t>((c | 0x20) - 'a') + 10;
    if (digit >= base) break;
    if (__builtin_mul_overflow(value, base, &value) ||
        __builtin_add_overflow(value, digit, &value)) {
      return UINT64_MAX;
    }
  }
  return value;
}

// What stands between "[" and "]": numbers, + - * / % << >> & ^ |, parentheses, casts.
class Extent {
 public:
  explicit Extent(Words& words) : words_(words) { advance(); }
  // To be called once: reads up to the "]". UINT64_MAX: not understood, so it may be anything.
  uint64_t value() {
    const uint64_t value = binary(1);
    if (word_ == "]") return good_ ? value : UINT64_MAX;
    while (!word_.empty() && word_ != "]" && word_ != ";") advance();
    return UINT64_MAX;
  }
  bool is_empty() const { return word_ == "]"; }

 private:
  static constexpr int kMostDepth = 32;
  static constexpr int kUnaryLevel = 7;

  void advance() { word_ = words_.next(); }
  uint64_t fail() {
    good_ = false;
    return 0;
  }

  static int level_of(std::string_view word) {
    if (word.empty()) return 0;
    switch (word[0]) {
      case '|':
        return 1;
      case '^':
        return 2;
      case '&':
        return 3;
      case '<':
      case '>':
        return 4;
      case '+':
      case '-':
        return 5;
      case '*':
      case '/':
      case '%':
        return word.size() == 1 ? 6 : 0;  // else the name of a register
      default:
        return 0;
    }
  }

  uint64_t apply(char sign, uint64_t a, uint64_t b) {
    uint64_t result = 0;
    switch (sign) {
      case '|':
        return a | b;
      case '^':
        return a ^ b;
      case '&':
        return a & b;
      case '<':
        return b < 64 && a <= UINT64_MAX >> b ? a << b : fail();
      case '>':
        return b < 64 ? a >> b : fail();
      case '+':
        return a + b;
      case '-':
        return a - b;
      case '*':
        return __builtin_mul_overflow(a, b, &result) ? fail() : result;
      case '/':
        return b != 0 ? a / b : fail();
      default:
        return b != 0 ? a % b : fail();
    }
  }

  // All that binds at least as strongly as `level`.
  uint64_t binary(int level) {
    if (++depth_ > kMostDepth) return fail();
    uint64_t left = unary();
    for (int found = level_of(word_); good_ && found >= level; found = level_of(word_)) {
      const char sign = word_[0];
      advance();
      if (sign == '<' || sign == '>') {
        if (word_.empty() || word_[0] != sign) return fail();
        advance();
      }
      left = apply(sign, left, binary(found + 1));
    }
    depth_--;
    return left;
  }

  uint64_t unary() {
    if (word_ == "-" || word_ == "+" || word_ == "~") {
      const char sign = word_[0];
      advance();
      const uint64_t value = binary(kUnaryLevel);
      return sign == '-' ? 0 - value : sign == '~' ? ~value : value;
    }
    if (word_ == "(") {
      advance();
      const bool is_cast = word_ == ".s64" || word_ == ".u64";
      uint64_t value = 0;
      if (is_cast) {
        advance();
      } else {
        value = binary(1);
      }
      if (word_ != ")") return fail();
      advance();
      return is_cast ? binary(kUnaryLevel) : value;
    }
    if (word_.empty() || !is_digit(word_[0])) return fail();
    const uint64_t value = parse_number(word_);
    advance();
    return value;
  }

  Words& words_;
  std::string_view word_;
  int depth_ = 0;
  bool good_ = true;
};

constexpr uint64_t kLargestType = 16;

// ".f32", ".bf16", ".f16x2" and their kin: the digits are bits. What is not known may be as large
// as any.
uint64_t type_bytes(std::string_view word) {
  const size_t digits = word.find_first_of("0123456789");
  if (digits == word.npos) return kLargestType;
  const std::string_view letters = base::tail(base::head(word, digits), 1);
  const bool known = letters == "b" || letters == "s" || letters == "u" || letters == "f" ||
                     letters == "bf" || letters == "tf";
  const size_t times = word.find('x', digits);
  uint64_t bits = parse_number(base::tail(word, digits));
  if (times != word.npos) bits *= parse_number(base::tail(word, times + 1));
  return known && bits >= 8 && bits <= 8 * kLargestType ? bits / 8 : kLargestType;
}

// 0: not a vector.
uint64_t vector_width(std::string_view word) {
  return word == ".v2" ? 2 : word == ".v4" ? 4 : word == ".v8" ? 8 : 0;
}

void skip_group(Words& words) {
  uint64_t depth = 1;
  while (depth != 0) {
    const std::string_view word = words.next();
    if (word.empty()) return;
    if (word == "(") depth++;
    if (word == ")") depth--;
  }
}

// What stands after "=": returns how many elements the outermost braces list, and in *end the word
// that it ends with.
uint64_t initialised_elements(Words& words, std::string_view* end) {
  uint64_t depth = 0, elements = 1;
  for (std::string_view word = words.next();; word = words.next()) {
    *end = word;
    if (word.empty() || word == ";" || (word == "," && depth == 0)) return elements;
    if (word == "{" || word == "(") depth++;
    if ((word == "}" || word == ")") && depth > 0) depth--;
    if (word == "," && depth == 1) elements++;
  }
}

// One declaration after ".global", up to its ';'.
uint64_t declared_bytes(Words& words) {
  uint64_t element = 0, width = 1, count = 1, total = 0;
  bool by_initialiser = false;  // the first extent is left to what stands after "="
  for (std::string_view word = words.next();; word = words.next()) {
    uint64_t extent = 1;
    if (word == "(") {
      skip_group(words);
    } else if (word == "[") {
      Extent inside(words);
      if (inside.is_empty()) {
        by_initialiser = true;
      } else {
        extent = inside.value();
      }
    } else if (word.size() > 1 && word[0] == '.' && word != ".align" && word != ".attribute") {
      const uint64_t lanes = vector_width(word);
      if (lanes != 0) width = lanes;
      if (lanes == 0) element = type_bytes(word);
    }
    if (word == "=") {
      const uint64_t elements = initialised_elements(words, &word);
      if (by_initialiser) extent = elements;
    }
    if (__builtin_mul_overflow(count, extent, &count)) return UINT64_MAX;
    const bool at_end = word.empty() || word == ";";
    if (!at_end && word != ",") continue;
    uint64_t bytes;
    if (__builtin_mul_overflow(count, element * width, &bytes)) return UINT64_MAX;
    total = add(total, bytes);
    if (at_end) return total;
    count = 1;
    by_initialiser = false;
  }
}

// Bodies of functions and initialisers of constants stand between the declarations and hold none:
// there ".global" is only ever a part of longer words such as "ld.global.u32".
uint64_t globals_in_ptx(std::string_view text) {
  Words words(text);
  uint64_t bytes = 0;
  for (std::string_view word = words.next(); !word.empty(); word = words.next()) {
    if (word == ".global") bytes = add(bytes, declared_bytes(words));
  }
  return bytes;
}

// --- fat binary: a header of 16 bytes, then parts, each with a header of its own

uint64_t globals_in_part(uint16_t kind, Bytes data) {
  if (kind == kKindElf && is_cubin(data)) return globals_in_elf(data);
  if (kind == kKindPtx) {
    return globals_in_ptx({reinterpret_cast<const char*>(data.data()), data.size()});
  }
  return 0;
}

uint64_t globals_in_fatbin(Bytes fatbin) {
  uint64_t largest = 0;
  uint64_t offset = read<uint16_t>(fatbin, 6);
  if (offset < 16) return 0;
  while (offset + 64 <= fatbin.size()) {
    const auto kind = read<uint16_t>(fatbin, offset);
    const uint64_t header = read<uint32_t>(fatbin, offset + 4);
    const uint64_t size = read<uint64_t>(fatbin, offset + 8);
    const uint64_t flags = read<uint64_t>(fatbin, offset + 40);
    if (header < 64 || header > fatbin.size() || size > fatbin.size()) break;
    if ((flags & kCompressed) == 0) {
      const uint64_t bytes = globals_in_part(kind, part(fatbin, offset + header, size));
      if (bytes > largest) largest = bytes;
    }
    offset += header + size;
  }
  return largest;
}

}  // namespace

uint64_t globals_in(Bytes image) {
  switch (read<uint32_t>(image, 0)) {
    case kElfMagic:
      return is_cubin(image) ? globals_in_elf(image) : 0;
    case kFatbinMagic:
      return globals_in_fatbin(image);
    default:
      return globals_in_ptx({reinterpret_cast<const char*>(image.data()), image.size()});
  }
}

const void* unwrap(const void* image) {
  uint32_t magic;
  __builtin_memcpy(&magic, image, sizeof magic);
  if (magic != kWrapperMagic) return image;
  const void* inner;
  __builtin_memcpy(&inner, static_cast<const char*>(image) + 8, sizeof inner);
  return inner != nullptr ? inner : image;
}

uint64_t image_size(const void* image) {
  const auto* bytes = static_cast<const uint8_t*>(image);
  uint32_t magic;
  __builtin_memcpy(&magic, image, sizeof magic);
  if (magic == kElfMagic) {
    const Bytes header(bytes, kElfHeader);
    return is_cubin(header) ? elf_size(header) : kElfHeader;
  }
  if (magic == kFatbinMagic) {
    const Bytes header(bytes, 16);
    return read<uint16_t>(header, 6) + read<uint64_t>(header, 8);
  }
  // PTX is a text that ends with a zero byte, by the driver's own rule.
  uint64_t size = 0;
  while (size < kMaxText && bytes[size] != 0) size++;
  return size;
}

}  // namespace softmig::policy
