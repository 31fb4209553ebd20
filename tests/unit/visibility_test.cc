#include "policy/visibility.h"

#include <gtest/gtest.h>

namespace softmig::policy {
namespace {

TEST(VisibilityTest, OrdinalsFollowTheList) {
  EXPECT_EQ(visible_index("2,0", 0), 2);
  EXPECT_EQ(visible_index("2,0", 1), 0);
  EXPECT_EQ(visible_index(" 3 , 1 ", 1), 1);
}

TEST(VisibilityTest, NamesAndWhatIsNotThereAreUnknown) {
  EXPECT_EQ(visible_index("GPU-0123,1", 0), -1);
  EXPECT_EQ(visible_index("GPU-0123,1", 1), 1);
  EXPECT_EQ(visible_index("MIG-GPU-1/2/3", 0), -1);
  EXPECT_EQ(visible_index("0,1", 2), -1);
  EXPECT_EQ(visible_index("", 0), -1);
  EXPECT_EQ(visible_index("-1", 0), -1);
  EXPECT_EQ(visible_index("1x", 0), -1);
}

}  // namespace
}  // namespace softmig::policy
