// What people read: sizes, aligned tables, emphasis that vanishes in files and logs.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "host/text.h"

namespace softmig::cli {

// "4096 MiB", "517.5 MiB", "12 KiB", "0 MiB": one unit for all that a GPU holds.
std::string size_text(uint64_t bytes);

using host::printable;

// Emphasis for one stream: nothing unless it is a terminal, NO_COLOR is unset and TERM is not dumb.
class Style {
 public:
  explicit Style(std::FILE* stream);
  std::string bold(std::string_view text) const { return wrap("1", text); }
  std::string dim(std::string_view text) const { return wrap("2", text); }
  std::string good(std::string_view text) const { return wrap("32", text); }
  std::string bad(std::string_view text) const { return wrap("1;31", text); }

 private:
  std::string wrap(const char* code, std::string_view text) const;
  bool on_;
};

// Columns as wide as their longest cell, two blanks between them, no blanks at the ends of lines.
class Table {
 public:
  enum class Align { kLeft, kRight };

  explicit Table(std::vector<Align> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // The first row in bold.
  std::string text(const Style& style, std::string_view indent = "") const;

 private:
  std::vector<Align> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace softmig::cli
