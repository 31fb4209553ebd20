#include "policy/packing.h"

#include <gtest/gtest.h>

namespace softmig::policy {
namespace {

uint64_t add(Packing& packing, uint64_t bytes) {
  const uint64_t growth = packing.growth(bytes);
  packing.add(bytes);
  return growth;
}

TEST(PackingTest, ThirtyTwoThingsOfOneUnitShareAPage) {
  Packing packing;
  EXPECT_EQ(add(packing, 1), kPage);
  for (int i = 1; i < 32; i++) EXPECT_EQ(add(packing, kPackUnit), 0u);
  EXPECT_EQ(add(packing, kPackUnit), kPage);
}

TEST(PackingTest, OnlyTwoThingsOfFifteenUnitsFitAPage) {
  Packing packing;
  EXPECT_EQ(add(packing, 15 * kPackUnit), kPage);
  EXPECT_EQ(add(packing, 15 * kPackUnit), 0u);
  EXPECT_EQ(add(packing, 15 * kPackUnit), kPage);
}

TEST(PackingTest, AFreedPlaceServesTheSameSizeOnly) {
  Packing packing;
  add(packing, 16 * kPackUnit);
  add(packing, 16 * kPackUnit);
  EXPECT_EQ(packing.remove(16 * kPackUnit), 0u);
  EXPECT_EQ(packing.growth(16 * kPackUnit), 0u);
  EXPECT_EQ(packing.growth(kPackUnit), kPage);
}

TEST(PackingTest, TheLastOneGivesEverythingBack) {
  Packing packing;
  for (int i = 0; i < 40; i++) add(packing, kPackUnit);
  for (int i = 0; i < 39; i++) EXPECT_EQ(packing.remove(kPackUnit), 0u);
  EXPECT_EQ(packing.remove(kPackUnit), 2 * kPage);
  EXPECT_EQ(packing.growth(kPackUnit), kPage);
}

TEST(PackingTest, NothingIsEverCountedBelowItsOwnSize) {
  for (uint64_t units = 1; units <= kPackUnits; units++) {
    Packing packing;
    uint64_t pages = 0;
    for (uint64_t i = 1; i <= 100; i++) {
      pages += add(packing, units * kPackUnit);
      EXPECT_GE(pages, i * units * kPackUnit);
    }
  }
}

}  // namespace
}  // namespace softmig::policy
