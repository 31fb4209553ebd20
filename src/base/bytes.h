// Sizes: the grammar that users and administrators write, and how sizes are printed.
#pragma once

#include <cstdint>
#include <string_view>

namespace softmig::base {

inline constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;

// Parses "16g", "24G", "12288M", "12GB", "12GiB", "1.5G", "11517.0M", "4096" (bytes), "512K", "1T".
// Units are binary, upper or lower case; blanks (space, tab, CR) around the whole text and between
// number and unit are allowed. Fractions of a byte are cut off. Anything else (sign, hex, exponent,
// two points, unknown unit, overflow of 63 bits, empty text) returns false and leaves *bytes alone.
// A leading zero is decimal, never octal.
bool parse_size(std::string_view text, uint64_t* bytes);

constexpr uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

}  // namespace softmig::base
