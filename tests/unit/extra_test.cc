#include "job/extra.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "child.h"
#include "scratch.h"
#include "sys/clock.h"

namespace softmig::job {
namespace {

using testing::in_child_as;
using testing::Scratch;

abi::ExtraPage page_of_two() {
  abi::ExtraPage page = {};
  page.device_count = 2;
  page.device[0] = {.key = 11, .bytes = 4096};
  page.device[1] = {.key = 22, .bytes = 5 << 20};
  return page;
}

// The file of a good page, with one thing changed.
std::string changed(const std::function<void(abi::ExtraPage*)>& change) {
  abi::ExtraPage page = page_of_two();
  page.magic = abi::kExtraMagic;
  page.version = 1;
  page.written_ns = sys::monotonic_ns();
  change(&page);
  return std::string(reinterpret_cast<const char*>(&page), sizeof page);
}

class Extra : public ::testing::Test {
 protected:
  bool read() { return read_extra_page(region_.c_str(), &page_); }
  bool read(const std::string& contents) {
    scratch_.write("job.region.extra", contents);
    return read();
  }

  const Scratch scratch_;
  const std::string region_ = scratch_.path("job.region");
  const std::string file_ = region_ + ".extra";
  abi::ExtraPage page_ = {};
};

TEST_F(Extra, IsReadAsItWasWritten) {
  abi::ExtraPage page = page_of_two();
  ASSERT_EQ(write_extra_page(region_.c_str(), &page), 0);
  ASSERT_TRUE(read());
  EXPECT_EQ(std::memcmp(&page, &page_, sizeof page), 0);
  EXPECT_EQ(page_.device[1].bytes, 5u << 20);
}

TEST_F(Extra, IsMissingWithoutAFile) { EXPECT_FALSE(read()); }

TEST_F(Extra, RefusesWhatIsNotAPage) {
  EXPECT_TRUE(read(changed([](auto*) {})));
  EXPECT_FALSE(read(""));
  EXPECT_FALSE(read(changed([](auto*) {}) + "x"));
  EXPECT_FALSE(read(changed([](auto*) {}).substr(1)));
  EXPECT_FALSE(read(changed([](auto* page) { page->magic++; })));
  EXPECT_FALSE(read(changed([](auto* page) { page->version = 2; })));
  EXPECT_FALSE(read(changed([](auto* page) { page->device_count = abi::kMaxDevices + 1; })));
  EXPECT_FALSE(read(changed([](auto* page) { page->device_count = 0xffffffff; })));
  EXPECT_FALSE(read(changed([](auto* page) { page->device[1].bytes = ~uint64_t{0}; })));
}

TEST_F(Extra, ForgetsWhatNobodyKeepsUpToDate) {
  constexpr uint64_t kMargin = 1'000'000'000;
  ASSERT_TRUE(read(changed([](auto* page) { page->written_ns -= kExtraLifetimeNs - kMargin; })));
  EXPECT_EQ(page_.device_count, 2u);
  ASSERT_TRUE(read(changed([](auto* page) { page->written_ns -= kExtraLifetimeNs + kMargin; })));
  EXPECT_EQ(page_.device_count, 0u);
  // A clock of another boot or time namespace.
  ASSERT_TRUE(read(changed([](auto* page) { page->written_ns += kExtraLifetimeNs + kMargin; })));
  EXPECT_EQ(page_.device_count, 0u);
}

TEST_F(Extra, RefusesLinksFoldersAndFifos) {
  const std::string elsewhere = scratch_.write("elsewhere", changed([](auto*) {}));
  ASSERT_EQ(symlink(elsewhere.c_str(), file_.c_str()), 0);
  EXPECT_FALSE(read());
  ASSERT_EQ(unlink(file_.c_str()), 0);
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  EXPECT_FALSE(read());
  ASSERT_EQ(unlink(file_.c_str()), 0);
  ASSERT_EQ(mkdir(file_.c_str(), 0700), 0);
  EXPECT_FALSE(read());
}

TEST_F(Extra, OfRootIsReadByUsersAndOfAUserNotByRoot) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
  abi::ExtraPage page = page_of_two();
  ASSERT_EQ(write_extra_page(region_.c_str(), &page), 0);
  EXPECT_EQ(in_child_as(testing::kNobody, [&] { return read() ? 0 : 1; }), 0);
  ASSERT_EQ(chown(file_.c_str(), testing::kNobody, testing::kNobody), 0);
  EXPECT_FALSE(read());
}

TEST_F(Extra, PathsThatAreTooLongAreRefused) {
  const std::string long_path(600, 'x');
  EXPECT_FALSE(read_extra_page(long_path.c_str(), &page_));
  EXPECT_NE(write_extra_page(long_path.c_str(), &page_), 0);
}

}  // namespace
}  // namespace softmig::job
