// What users wrote, on its way to labels, logs and terminals.
#include "host/text.h"

#include <gtest/gtest.h>

namespace softmig::host {
namespace {

TEST(PrintableTest, SoundTextStays) {
  for (const char* text : {"", "def-alice_gpu", "\"quoted\" \\", "\xc3\xa9t\xc3\xa9",
                           "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xef\xbf\xbd", "\xc2\xa0"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(PrintableTest, ControlCharactersAreWrittenOut) {
  EXPECT_EQ(printable("a\nb\x1b[31m\x7f"), "a\\x0ab\\x1b[31m\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m");  // CSI of C1
  EXPECT_EQ(printable(std::string_view("\0a", 2)), "\\x00a");
}

// One such byte in a label, and Prometheus refuses the whole page.
TEST(PrintableTest, WhatIsNoUtf8IsWrittenOut) {
  EXPECT_EQ(printable("\xff"), "\\xff");
  EXPECT_EQ(printable("caf\xe9"), "caf\\xe9");
  EXPECT_EQ(printable("\xe2\x82"), "\\xe2\\x82");                    // cut
  EXPECT_EQ(printable("\xe2\x82z"), "\\xe2\\x82z");                  // broken off
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf");                    // longer than needed
  EXPECT_EQ(printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");           // as well
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // a surrogate
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond the last
}

}  // namespace
}  // namespace softmig::host
