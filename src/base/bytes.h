// Sizes: the grammar that users and administrators write, and how sizes are printed.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/text.h"

namespace softmig::base {

inline constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB, kTiB = 1024 * kGiB;

// Parses "16g", "24G", "12288M", "12GB", "12GiB", "1.5G", "11517.0M", "4096" (bytes), "512K", "1T".
// Units are binary, upper or lower case; blanks (space, tab, CR) around the whole text and between
// number and unit are allowed. Fractions of a byte are cut off. Anything else (sign, hex, exponent,
// two points, a point without digits on both sides, unknown unit, overflow of 63 bits, empty text)
// returns false and leaves *bytes alone. So does a number that is not zero and less than one byte:
// zero would read as "no limit". A leading zero is decimal, never octal.
bool parse_size(std::string_view text, uint64_t* bytes);

// For people: one decimal in the largest unit that leaves at least 1, rounded ("4.0 GiB", "512 B").
void add_size(Text& text, uint64_t bytes);

constexpr uint64_t round_up(uint64_t value, uint64_t step) {
  return (value + step - 1) / step * step;
}

// Text without the spaces, tabs and carriage returns around it.
std::string_view trim_blanks(std::string_view text);

}  // namespace softmig::base
