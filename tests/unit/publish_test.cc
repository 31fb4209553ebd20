#include "sys/publish.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "scratch.h"

namespace softmig::sys {
namespace {

using testing::contents_of;
using testing::Scratch;

size_t files_in(const Scratch& scratch) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    count += entry.exists() || entry.is_symlink() ? 1 : 0;
  }
  return count;
}

TEST(PublishFile, ReplacesTheContentsWithThisModeWhateverTheUmaskIs) {
  const Scratch scratch;
  const std::string path = scratch.write("page", "old contents");
  const mode_t before = umask(077);
  EXPECT_EQ(publish_file(path.c_str(), "new", 3, 0644), 0);
  umask(before);
  EXPECT_EQ(contents_of(path), "new");
  struct stat status = {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0644u);
  EXPECT_EQ(files_in(scratch), 1u);
}

TEST(PublishFile, ReplacesALinkAndNotWhatItLeadsTo) {
  const Scratch scratch;
  const std::string target = scratch.write("target", "precious");
  const std::string path = scratch.path("page");
  ASSERT_EQ(symlink(target.c_str(), path.c_str()), 0);
  EXPECT_EQ(publish_file(path.c_str(), "new", 3, 0644), 0);
  EXPECT_EQ(contents_of(target), "precious");
  EXPECT_EQ(contents_of(path), "new");
}

TEST(PublishFile, WritesNothingThroughAPlantedLink) {
  const Scratch scratch;
  const std::string target = scratch.write("target", "precious"), path = scratch.path("page");
  const std::string planted = path + ".new." + std::to_string(getpid());
  ASSERT_EQ(symlink(target.c_str(), planted.c_str()), 0);
  EXPECT_EQ(publish_file(path.c_str(), "new", 3, 0644), 0);
  EXPECT_EQ(contents_of(target), "precious");
}

TEST(PublishFile, LeavesNothingBehindWhenItFails) {
  const Scratch scratch;
  EXPECT_EQ(publish_file(scratch.path("no/folder").c_str(), "new", 3, 0644), ENOENT);
  const std::string folder = scratch.path("folder");
  ASSERT_EQ(mkdir(folder.c_str(), 0755), 0);
  EXPECT_EQ(publish_file(folder.c_str(), "new", 3, 0644), EISDIR);
  EXPECT_EQ(files_in(scratch), 1u);
  EXPECT_EQ(publish_file(std::string(2000, 'x').c_str(), "new", 3, 0644), ENAMETOOLONG);
}

TEST(PublishFile, IsSeenWholeByReaders) {
  const Scratch scratch;
  const std::string path = scratch.write("page", std::string(4096, 'a'));
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 300; i++) {
      const std::string text(4096, i % 2 == 0 ? 'b' : 'a');
      EXPECT_EQ(publish_file(path.c_str(), text.data(), text.size(), 0644), 0);
    }
    done = true;
  });
  while (!done) {
    const std::string text = contents_of(path);
    ASSERT_EQ(text.size(), 4096u);
    ASSERT_EQ(text.find_first_not_of(text[0]), std::string::npos);
  }
  writer.join();
}

TEST(OpenUntrusted, FollowsNoLinkAndWaitsForNobody) {
  const Scratch scratch;
  const std::string file = scratch.write("file", "x");
  const std::string link = scratch.path("link"), fifo = scratch.path("fifo");
  ASSERT_EQ(symlink(file.c_str(), link.c_str()), 0);
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_LT(open_untrusted(link.c_str()), 0);
  EXPECT_EQ(errno, ELOOP);
  const int from_fifo = open_untrusted(fifo.c_str());
  EXPECT_GE(from_fifo, 0);
  close(from_fifo);
  const int fd = open_untrusted(file.c_str());
  ASSERT_GE(fd, 0);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  close(fd);
}

TEST(ReadExactly, GivesAllThatWasAskedForOrNothing) {
  const Scratch scratch;
  const int fd = open_untrusted(scratch.write("file", "0123456789").c_str());
  char bytes[5] = {};
  EXPECT_TRUE(read_exactly(fd, bytes, 4, 6));
  EXPECT_STREQ(bytes, "6789");
  EXPECT_FALSE(read_exactly(fd, bytes, 5, 6));
  EXPECT_FALSE(read_exactly(fd, bytes, 1, 10));
  EXPECT_TRUE(read_exactly(fd, bytes, 0, 10));
  close(fd);
  EXPECT_FALSE(read_exactly(fd, bytes, 1, 0));
}

}  // namespace
}  // namespace softmig::sys
