// The file that the processes of a job share, made by whichever comes first.
#include "job/region.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "child.h"
#include "job/log.h"
#include "scratch.h"

namespace softmig::job {
namespace {

using testing::Scratch;

// For processes that are to start at the same instant.
struct Gate {
  std::atomic<int> waiting;
  std::atomic<bool> open;
};

TEST(OpenRegion, AllWhoStartAtOnceShareOneFile) {
  constexpr int kProcesses = 8, kRounds = 25;
  void* shared =
      mmap(nullptr, sizeof(Gate), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* gate = new (shared) Gate{};
  for (int round = 0; round < kRounds; round++) {
    const Scratch scratch;
    setenv("SOFTMIG_REGION", scratch.path("region").c_str(), 1);
    gate->waiting = 0;
    gate->open = false;
    pid_t child[kProcesses];
    for (pid_t& pid : child) {
      pid = fork();
      if (pid != 0) continue;
      gate->waiting++;
      while (!gate->open) {
      }
      Config config;
      config.source = Source::kEnvironment;
      OpenRegion region;
      open_region({}, config, &region);
      _exit(region.shared ? 0 : 1);
    }
    while (gate->waiting < kProcesses) usleep(100);
    gate->open = true;
    for (const pid_t pid : child) {
      int status = -1;
      waitpid(pid, &status, 0);
      EXPECT_EQ(status, 0) << "round " << round << ": a process counts for itself alone";
    }
    int files = 0;
    for (const auto& entry : testing::fs::directory_iterator(scratch.path())) {
      EXPECT_EQ(entry.path().filename(), "region");
      files++;
    }
    EXPECT_EQ(files, 1);
  }
  unsetenv("SOFTMIG_REGION");
  munmap(shared, sizeof(Gate));
}

TEST(OpenRegion, RootMakesNoneInTheFolderOfAnother) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const Scratch scratch;
  const std::string path = scratch.path("region");
  ASSERT_EQ(chown(scratch.path().c_str(), 65534, 65534), 0);
  setenv("SOFTMIG_REGION", path.c_str(), 1);
  Config config;
  config.source = Source::kEnvironment;
  OpenRegion region;
  open_region({}, config, &region);
  EXPECT_FALSE(region.shared);
  EXPECT_NE(region.map, nullptr);
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  unsetenv("SOFTMIG_REGION");
}

TEST(OpenRegion, AFileOfTwoNamesIsUsedAndALinkIsNot) {
  const Scratch scratch;
  const std::string path = scratch.path("region"), link = scratch.path("link");
  ASSERT_EQ(create_region_file(path.c_str(), geteuid(), getegid()), 0);
  ASSERT_EQ(::link(path.c_str(), scratch.path("other").c_str()), 0);
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  Config config;
  config.source = Source::kEnvironment;
  for (const std::string& name : {path, link}) {
    setenv("SOFTMIG_REGION", name.c_str(), 1);
    OpenRegion region;
    open_region({}, config, &region);
    EXPECT_EQ(region.shared, name == path);
    EXPECT_NE(region.map, nullptr);
  }
  unsetenv("SOFTMIG_REGION");
}

TEST(CreateRegionFile, TheUmaskDoesNotMatter) {
  const Scratch scratch;
  const std::string path = scratch.path("region");
  const mode_t before = umask(0777);
  EXPECT_EQ(create_region_file(path.c_str(), geteuid(), getegid()), 0);
  umask(before);
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST(CreateRegionFile, NobodySeesAFileOfTwoNames) {
  const Scratch scratch;
  const std::string path = scratch.path("region");
  std::atomic<bool> done{false};
  std::atomic<int> seen{0}, twice{0};
  std::thread watcher([&] {
    struct stat status;
    while (!done) {
      if (stat(path.c_str(), &status) != 0) continue;
      seen++;
      if (status.st_nlink > 1) twice++;
    }
  });
  for (int i = 0; i < 300; i++) {
    EXPECT_EQ(create_region_file(path.c_str(), geteuid(), getegid()), 0);
    EXPECT_EQ(create_region_file(path.c_str(), geteuid(), getegid()), EEXIST);
    unlink(path.c_str());
  }
  done = true;
  watcher.join();
  EXPECT_GT(seen, 0);
  EXPECT_EQ(twice, 0);
}

}  // namespace
}  // namespace softmig::job
