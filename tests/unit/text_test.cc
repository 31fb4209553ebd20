#include "base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/format.h"

namespace softmig::base {
namespace {

template <typename... Arguments>
std::string formatted(const char* pattern, Arguments... arguments) {
  char buffer[256];
  Text text(buffer);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-security"
  format(text, pattern, arguments...);
#pragma GCC diagnostic pop
  return buffer;
}

TEST(Text, IsCutAtTheEndAndSaysSo) {
  char buffer[8];
  Text text(buffer);
  text.add("12345");
  EXPECT_FALSE(text.overflowed());
  text.add("6789");
  EXPECT_TRUE(text.overflowed());
  EXPECT_STREQ(buffer, "1234567");
  text.clear();
  EXPECT_FALSE(text.overflowed());
  EXPECT_STREQ(buffer, "");
}

TEST(Text, HoldsNumbersOfAnySize) {
  char buffer[64];
  Text text(buffer);
  text.add_number(0).add(' ').add_number(UINT64_MAX).add(' ').add_number(7, 3).add(' ');
  text.add_hex(0xdeadbeef).add(' ').add_hex(1, 4);
  EXPECT_STREQ(buffer, "0 18446744073709551615 007 deadbeef 0001");
}

TEST(Text, EscapesWhateverIsNotPlainAscii) {
  char buffer[128];
  Text(buffer).add_escaped(std::string_view("a\nb\x1b[31m\xc3\xa9\\\0z\x7f", 14));
  EXPECT_STREQ(buffer, "a\\x0ab\\x1b[31m\\xc3\\xa9\\x5c\\x00z\\x7f");
}

TEST(Format, SpeaksPrintf) {
  EXPECT_EQ(formatted("%d %i %u %ld %lu %lld %llu %zu", -1, 2, 3u, -4l, 5ul, -6ll, 7ull, size_t{8}),
            "-1 2 3 -4 5 -6 7 8");
  EXPECT_EQ(formatted("%d %ld", INT32_MIN, INT64_MIN), "-2147483648 -9223372036854775808");
  EXPECT_EQ(formatted("%x %08x %llx", 255u, 255u, ~0ull), "ff 000000ff ffffffffffffffff");
  EXPECT_EQ(formatted("%s %.2s %.*s %c %%", "abc", "xyz", 1, "qrs", 'k'), "abc xy q k %");
  EXPECT_EQ(formatted("%.1f %.0f %f %.3f", 1.25, 2.5, -0.5, 1e-4), "1.3 3 -0.500000 0.000");
  EXPECT_EQ(formatted("%.2f %f", NAN, INFINITY), "nan huge");
  EXPECT_EQ(formatted("%p", reinterpret_cast<void*>(0x1234)), "0x1234");
}

TEST(Format, EscapesWhatIsInterpolatedAndNothingElse) {
  EXPECT_EQ(formatted("a\tb %s %c", "c\nd", '\r'), "a\tb c\\x0ad \\x0d");
  EXPECT_EQ(formatted("%-s|%s", formatted("%s", "c\nd").c_str(), "\\"), "c\\x0ad|\\x5c");
}

TEST(Format, ReadsNoFurtherThanThePrecisionOfAString) {
  const char unterminated[] = {'a', 'b', 'c'};
  EXPECT_EQ(formatted("%.*s", 3, unterminated), "abc");
}

TEST(Format, StopsAtAConversionThatItDoesNotKnow) {
  EXPECT_EQ(formatted("%d %-5s|%d", 1, "x", 2), "1 %-5s|%d");
  EXPECT_EQ(formatted("%d %", 1), "1 %");
  const char* volatile nothing = nullptr;
  EXPECT_EQ(formatted("%s", static_cast<const char*>(nothing)), "(null)");
}

}  // namespace
}  // namespace softmig::base
