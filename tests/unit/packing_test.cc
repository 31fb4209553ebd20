#include "policy/packing.h"

#include <gtest/gtest.h>

namespace softmig::policy {
namespace {

uint64_t add(Packing& packing, uint64_t bytes) {
  const uint64_t growth = packing.growth(bytes);
  packing.add(bytes);
  return growth;
}

TEST(PackingTest, AsManyThingsOfOneUnitShareAPageAsThereIsRoomFor) {
  Packing packing;
  for (int page = 0; page < 100; page++) {
    ASSERT_EQ(add(packing, 1), kPage);
    for (uint64_t i = 1; i < kPackUnits; i++) ASSERT_EQ(add(packing, kPackUnit), 0u);
  }
}

// A third of a page and a little.
TEST(PackingTest, OnlyTwoThingsOfThisSizeFitAPage) {
  constexpr uint64_t kSize = (kPackUnits / 3 + 1) * kPackUnit;
  Packing packing;
  EXPECT_EQ(add(packing, kSize), kPage);
  EXPECT_EQ(add(packing, kSize), 0u);
  EXPECT_EQ(add(packing, kSize), kPage);
}

TEST(PackingTest, AFreedPlaceServesTheSameSizeOnly) {
  Packing packing;
  add(packing, kPage / 2);
  add(packing, kPage / 2);
  EXPECT_EQ(packing.remove(kPage / 2), 0u);
  EXPECT_EQ(packing.growth(kPage / 2), 0u);
  EXPECT_EQ(packing.growth(kPackUnit), kPage);
}

TEST(PackingTest, TheLastOneGivesEverythingBack) {
  Packing packing;
  const uint64_t size = kPage / 32;
  for (int i = 0; i < 40; i++) add(packing, size);
  for (int i = 0; i < 39; i++) EXPECT_EQ(packing.remove(size), 0u);
  EXPECT_EQ(packing.remove(size), 2 * kPage);
  EXPECT_EQ(packing.growth(kPackUnit), kPage);
}

TEST(PackingTest, NothingIsEverCountedBelowItsOwnSize) {
  for (uint64_t units = 1; units <= kPackUnits; units++) {
    Packing packing;
    uint64_t pages = 0;
    for (uint64_t i = 1; i <= 100; i++) {
      pages += add(packing, units * kPackUnit);
      ASSERT_GE(pages, i * units * kPackUnit);
    }
  }
}

}  // namespace
}  // namespace softmig::policy
