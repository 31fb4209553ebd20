#include "base/bytes.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace softmig::base {
namespace {

struct Row {
  const char* text;
  uint64_t bytes;
};

class AcceptedSize : public ::testing::TestWithParam<Row> {};

TEST_P(AcceptedSize, MeansExactlyThis) {
  uint64_t bytes = 77;
  EXPECT_TRUE(parse_size(GetParam().text, &bytes)) << GetParam().text;
  EXPECT_EQ(bytes, GetParam().bytes) << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(
    Grammar, AcceptedSize,
    ::testing::Values(Row{"16g", 16 * kGiB}, Row{"24G", 24 * kGiB}, Row{"12288M", 12 * kGiB},
                      Row{"12GB", 12 * kGiB}, Row{"12gb", 12 * kGiB}, Row{"12GiB", 12 * kGiB},
                      Row{"12gib", 12 * kGiB}, Row{"12T", 12 * kTiB}, Row{"12G ", 12 * kGiB},
                      Row{" \t12 GiB\r", 12 * kGiB}, Row{"11517.0M", 11517 * kMiB},
                      Row{"0.5G", kGiB / 2}, Row{"1.5G", kGiB * 3 / 2}, Row{"010G", 10 * kGiB},
                      Row{"512K", 512 * kKiB}, Row{"1T", kTiB}, Row{"4096", 4096}, Row{"0", 0},
                      Row{"0G", 0}, Row{"0.0G", 0}, Row{"1.9", 1}, Row{"1.0009765625K", 1025},
                      Row{"0.1G", 107374182}, Row{"000000000000000000000000000000016g", 16 * kGiB},
                      Row{"1.50000000000000000000000000000000000000G", kGiB * 3 / 2},
                      Row{"9223372036854775807", INT64_MAX}, Row{"8388607T", 8388607 * kTiB},
                      Row{"0.99999999999999999999999999999999999999K", 1023}));

class RefusedSize : public ::testing::TestWithParam<std::string> {};

TEST_P(RefusedSize, LeavesTheValueAlone) {
  uint64_t bytes = 77;
  EXPECT_FALSE(parse_size(GetParam(), &bytes)) << GetParam();
  EXPECT_EQ(bytes, 77u);
}

INSTANTIATE_TEST_SUITE_P(Grammar, RefusedSize,
                         ::testing::Values("", " ", "-1", "-1M", "+1", "1e3M", "1e3", "0x10",
                                           "12Gi", "12GBB", "12iB", "12B", "12X", "G", ".5G", "5.G",
                                           ".", "1.2.3G", "1,5G", "12 G B", "12G B", "1 2G",
                                           "99999999999999999999", "9223372036854775808",
                                           "8388608T", "99999999999T",
                                           "8388607.99999999999999999999T1", "0.0000000001M", "0.1",
                                           "12G\n", "12G#", "nan", "inf", "١٢G",
                                           std::string("12G\0", 4), std::string("\0", 1)));

TEST(Size, OfAWholeNumberOfUnitsIsThatMany) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; i++) {
    const uint64_t step = i % 2 == 0 ? kMiB : kKiB;
    const uint64_t count = random() % (INT64_MAX / step) / (1 + random() % 100000);
    const std::string text = std::to_string(count) + (i % 2 == 0 ? " MiB" : " KiB");
    uint64_t read = 1;
    ASSERT_TRUE(parse_size(text, &read)) << text;
    ASSERT_EQ(read, count * step) << text;
  }
}

TEST(Size, OfAFractionNeverExceedsTheNextWholeNumber) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 20000; i++) {
    const uint64_t whole = random() % 100000;
    const std::string fraction = std::to_string(random());
    uint64_t bytes = 0, below = 0, above = 0;
    ASSERT_TRUE(parse_size(std::to_string(whole) + "." + fraction + "M", &bytes));
    ASSERT_TRUE(parse_size(std::to_string(whole) + "M", &below));
    ASSERT_TRUE(parse_size(std::to_string(whole + 1) + "M", &above));
    ASSERT_GE(bytes, below);
    ASSERT_LT(bytes, above);
  }
}

std::string printed(uint64_t bytes) {
  char buffer[64];
  Text text(buffer);
  add_size(text, bytes);
  return buffer;
}

TEST(Size, IsPrintedWithOneDecimalInAUnitThatFits) {
  EXPECT_EQ(printed(0), "0 B");
  EXPECT_EQ(printed(1023), "1023 B");
  EXPECT_EQ(printed(1024), "1.0 KiB");
  EXPECT_EQ(printed(4 * kGiB), "4.0 GiB");
  EXPECT_EQ(printed(4 * kGiB - 1), "4.0 GiB");
  EXPECT_EQ(printed(kMiB - 1), "1.0 MiB");
  EXPECT_EQ(printed(kGiB + kGiB / 2), "1.5 GiB");
  EXPECT_EQ(printed(1535 * kMiB), "1.5 GiB");
  EXPECT_EQ(printed(1023 * kMiB + 900 * kKiB), "1023.9 MiB");
  EXPECT_EQ(printed(UINT64_MAX), "16777216.0 TiB");
}

}  // namespace
}  // namespace softmig::base
