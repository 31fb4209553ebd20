#include "driver/image.h"

#include <elf.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <string_view>

namespace softmig::sim {
namespace {

// --- PTX

// Words, numbers and single signs; comments and quoted text are left out.
std::vector<std::string_view> tokens_of(std::string_view text) {
  std::vector<std::string_view> tokens;
  const auto is_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' ||
           c == '.';
  };
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i, 2) == "//") {
      i = std::min(text.find('\n', i), text.size());
    } else if (text.substr(i, 2) == "/*") {
      const size_t end = text.find("*/", i + 2);
      i = end == text.npos ? text.size() : end + 2;
    } else if (text[i] == '"') {
      const size_t end = text.find('"', i + 1);
      i = end == text.npos ? text.size() : end + 1;
    } else if (is_word(text[i])) {
      size_t end = i + 1;
      while (end < text.size() && is_word(text[end])) ++end;
      tokens.push_back(text.substr(i, end - i));
      i = end;
    } else {
      if (std::isspace(static_cast<unsigned char>(text[i])) == 0)
        tokens.push_back(text.substr(i, 1));
      ++i;
    }
  }
  return tokens;
}

uint64_t type_bytes(std::string_view type) {
  if (type.size() < 3 || type[0] != '.' || std::strchr("busf", type[1]) == nullptr) return 0;
  unsigned int bits = 0;
  const auto result = std::from_chars(type.data() + 2, type.data() + type.size(), bits);
  return result.ec == std::errc() && result.ptr == type.data() + type.size() ? bits / 8 : 0;
}

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  const bool hex = text.substr(0, 2) == "0x";
  if (hex) text.remove_prefix(2);
  std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  return value;
}

class PtxReader {
 public:
  PtxReader(std::vector<std::string_view> tokens, Image* image)
      : tokens_(std::move(tokens)), image_(image) {}

  bool read() {
    bool versioned = false, external = false;
    for (; at_ < tokens_.size(); ++at_) {
      const std::string_view token = tokens_[at_];
      versioned |= token == ".version";
      if (token == ".extern")
        external = true;
      else if (token == ".global" || token == ".const")
        variable(token == ".global" && !external, &external);
      else if (token == ".entry")
        entry(&external);
      else if (token == ".func")
        function(&external);
      else if (token == ";")
        external = false;
    }
    return versioned;
  }

 private:
  std::string_view peek(size_t ahead = 0) const {
    return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead] : std::string_view();
  }

  // .global [.attribute(.managed)] [.align N] [.vN] .type NAME [sizes] [= values] [, NAME ...] ;
  void variable(bool counts, bool* external) {
    Variable one;
    uint64_t element = 0, lanes = 1;
    for (++at_; at_ < tokens_.size() && peek()[0] == '.'; ++at_) {
      if (peek() == ".align")
        one.alignment = number(peek(1)), ++at_;
      else if (peek() == ".attribute")
        one.managed = attribute();
      else if (peek() == ".v2")
        lanes = 2;
      else if (peek() == ".v4")
        lanes = 4;
      else if (const uint64_t bytes = type_bytes(peek()))
        element = bytes;
    }
    while (at_ < tokens_.size() && peek() != ";") {
      one.name = peek();
      one.bytes = element * lanes * sizes();
      if (counts && element != 0) image_->variables.push_back(one);
      skip_values();
      if (peek() == ",") ++at_;
    }
    *external = false;
  }

  bool attribute() {
    bool managed = false;
    while (at_ + 1 < tokens_.size() && peek() != ")") {
      managed |= peek() == ".managed";
      ++at_;
    }
    return managed;
  }

  uint64_t sizes() {
    uint64_t count = 1;
    for (++at_; peek() == "["; ++at_) {
      count *= number(peek(1));
      while (at_ < tokens_.size() && peek() != "]") ++at_;
    }
    return count;
  }

  void skip_values() {
    if (peek() != "=") return;
    int depth = 0;
    for (; at_ < tokens_.size(); ++at_) {
      if (peek() == "{") ++depth;
      if (peek() == "}") --depth;
      if (depth == 0 && (peek() == ";" || peek() == ",")) return;
    }
  }

  // .entry NAME [( .param [.align N] .type NAME [, ...] )]
  void entry(bool* external) {
    Entry one;
    one.name = peek(1);
    at_ += 1;
    if (peek(1) == "(" && peek(2) == ".param") {
      size_t ahead = 3;
      if (peek(ahead) == ".align") ahead += 2;
      one.parameter_bytes = static_cast<unsigned int>(type_bytes(peek(ahead)));
      one.parameter_count = 0;
      for (ahead = 2; at_ + ahead < tokens_.size() && peek(ahead) != ")"; ++ahead)
        one.parameter_count += peek(ahead) == ".param";
    }
    if (!*external) image_->entries.push_back(std::move(one));
    *external = false;
  }

  // .func [(results)] NAME
  void function(bool* external) {
    size_t ahead = 1;
    if (peek(ahead) == "(") {
      while (at_ + ahead < tokens_.size() && peek(ahead) != ")") ++ahead;
      ++ahead;
    }
    if (*external && peek(ahead) == "malloc") image_->uses_heap = true;
    if (*external && peek(ahead) == "vprintf") image_->uses_printf = true;
    *external = false;
  }

  std::vector<std::string_view> tokens_;
  size_t at_ = 0;
  Image* image_;
};

// --- cubin

constexpr uint16_t kCudaMachine = 190;

class CubinReader {
 public:
  CubinReader(const char* data, Image* image) : data_(data), image_(image) {
    std::memcpy(&header_, data, sizeof header_);
  }

  bool read() {
    if (header_.e_machine != kCudaMachine || header_.e_shentsize != sizeof(Elf64_Shdr))
      return false;
    sections_ = reinterpret_cast<const Elf64_Shdr*>(data_ + header_.e_shoff);
    names_ = data_ + sections_[header_.e_shstrndx].sh_offset;
    for (unsigned int i = 0; i < header_.e_shnum; ++i) {
      const std::string_view name = names_ + sections_[i].sh_name;
      if (name.substr(0, 6) == ".text.") entry(name.substr(6));
      if (sections_[i].sh_type == SHT_SYMTAB) symbols(sections_[i]);
    }
    return true;
  }

 private:
  void entry(std::string_view name) { image_->entries.push_back({std::string(name), 4, 1}); }

  bool is_global_memory(const Elf64_Shdr& section) const {
    const std::string_view name = names_ + section.sh_name;
    return name == ".nv.global" || name == ".nv.global.init";
  }

  void symbols(const Elf64_Shdr& table) {
    const char* names = data_ + sections_[table.sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(data_ + table.sh_offset);
    for (uint64_t i = 0; i < table.sh_size / sizeof(Elf64_Sym); ++i) {
      const Elf64_Sym& symbol = symbols[i];
      if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT || symbol.st_shndx >= header_.e_shnum)
        continue;
      const Elf64_Shdr& section = sections_[symbol.st_shndx];
      if (!is_global_memory(section)) continue;
      image_->variables.push_back(
          {names + symbol.st_name, symbol.st_size, section.sh_addralign, false});
    }
  }

  const char* data_;
  Image* image_;
  Elf64_Ehdr header_{};
  const Elf64_Shdr* sections_ = nullptr;
  const char* names_ = nullptr;
};

// --- fatbinary

constexpr uint32_t kWrapperMagic = 0x466243b1;
constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint64_t kCompressed = 0x2000 | 0x8000;

struct Wrapper {
  uint32_t magic;
  uint32_t version;
  const void* data;
};

struct FatbinHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;
};

struct FatbinEntry {
  uint16_t kind;  // 1: PTX, 2: cubin
  uint16_t version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes;
  uint32_t options_offset;
  uint16_t minor;
  uint16_t major;
  uint32_t architecture;
  uint32_t name_offset;
  uint32_t name_bytes;
  uint64_t flags;
};

CUresult read_plain(const char* data, Image* image);

CUresult read_fatbin(const char* data, Image* image) {
  FatbinHeader header;
  std::memcpy(&header, data, sizeof header);
  const char* end = data + header.header_bytes + header.bytes;
  for (const char* at = data + header.header_bytes; at + sizeof(FatbinEntry) <= end;) {
    FatbinEntry entry;
    std::memcpy(&entry, at, sizeof entry);
    const bool readable = (entry.flags & kCompressed) == 0 && (entry.kind == 1 || entry.kind == 2);
    if (readable && read_plain(at + entry.header_bytes, image) == CUDA_SUCCESS) return CUDA_SUCCESS;
    at += entry.header_bytes + entry.bytes;
  }
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

CUresult read_plain(const char* data, Image* image) {
  if (std::memcmp(data, ELFMAG, SELFMAG) == 0) {
    return CubinReader(data, image).read() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
  }
  const bool text = std::isprint(static_cast<unsigned char>(*data)) != 0 ||
                    std::isspace(static_cast<unsigned char>(*data)) != 0;
  if (!text) return CUDA_ERROR_INVALID_IMAGE;
  return PtxReader(tokens_of(data), image).read() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}

}  // namespace

CUresult read_image(const void* data, Image* image) {
  uint32_t magic = 0;
  std::memcpy(&magic, data, sizeof magic);
  if (magic == kWrapperMagic) {
    Wrapper wrapper;
    std::memcpy(&wrapper, data, sizeof wrapper);
    data = wrapper.data;
    std::memcpy(&magic, data, sizeof magic);
  }
  const auto* bytes = static_cast<const char*>(data);
  return magic == kFatbinMagic ? read_fatbin(bytes, image) : read_plain(bytes, image);
}

}  // namespace softmig::sim
