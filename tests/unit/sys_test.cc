#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "child.h"
#include "scratch.h"
#include "sys/clock.h"
#include "sys/env.h"
#include "sys/files.h"
#include "sys/futex.h"
#include "sys/memory.h"
#include "sys/proc.h"

namespace softmig::sys {
namespace {

using ::testing::ElementsAre;
using testing::in_child;
using testing::Scratch;
using testing::Variables;

// The 52 fields of a stat line with these values in the ones that count.
std::string stat_line(const std::string& name, char state, int threads, uint64_t start) {
  std::string line = "4242 (" + name + ") " + state;
  for (int field = 4; field <= 52; field++) {
    line += ' ' + std::to_string(field == 20 ? threads : field == 22 ? start : 7u);
  }
  return line + '\n';
}

TEST(StatLine, IsReadWhateverTheNameOfTheProcessIs) {
  for (const char* name : {"python", "a b", "a) Z 1 (b", ") Z", "(((", "", "x) S 1 1 1 1 1"}) {
    ProcessState state;
    ASSERT_TRUE(parse_process_stat(stat_line(name, 'S', 3, 123456789012), &state)) << name;
    EXPECT_TRUE(state.exists) << name;
    EXPECT_FALSE(state.dead) << name;
    EXPECT_EQ(state.start_ticks, 123456789012u) << name;
  }
}

TEST(StatLine, OfAZombieIsDeadUnlessOtherThreadsLive) {
  const auto is_dead = [](char letter, int threads) {
    ProcessState state;
    EXPECT_TRUE(parse_process_stat(stat_line("x", letter, threads, 5), &state));
    return state.dead;
  };
  EXPECT_TRUE(is_dead('Z', 1));
  EXPECT_TRUE(is_dead('Z', 0));
  EXPECT_TRUE(is_dead('X', 1));
  EXPECT_FALSE(is_dead('Z', 2));
  EXPECT_FALSE(is_dead('R', 1));
  EXPECT_FALSE(is_dead('T', 1));
  EXPECT_FALSE(is_dead('D', 1));
}

// Programs that are not position-independent begin at one address, whichever they are.
TEST(StatLine, TheStackTellsImagesApartToo) {
  const auto image = [](uint64_t code, uint64_t stack) {
    std::string line = "4242 (x) S";
    for (int field = 4; field <= 52; field++) {
      line += ' ' + std::to_string(field == 26 ? code : field == 28 ? stack : 7u);
    }
    ProcessState state;
    EXPECT_TRUE(parse_process_stat(line, &state));
    return state.image;
  };
  EXPECT_EQ(image(0x401000, 0x7ffc12345678), image(0x401000, 0x7ffc12345678));
  EXPECT_NE(image(0x401000, 0x7ffc12345678), image(0x401000, 0x7ffd87654321));
  EXPECT_EQ(image(1, 0), 0u);  // hidden
  EXPECT_EQ(image(0, 0), 0u);
}

TEST(StatLine, IsRefusedWhereItIsCutOrNone) {
  const std::string whole = stat_line("x", 'S', 1, 5);
  ProcessState state;
  for (const std::string& line :
       {std::string(), std::string("x"), std::string("1 (x)"), whole.substr(0, 30),
        std::string("1 (x) S a b c"), std::string("1 (x) SS") + whole.substr(10)}) {
    EXPECT_FALSE(parse_process_stat(line, &state)) << line;
    EXPECT_FALSE(state.exists);
  }
}

TEST(Process, KnowsItselfAndItsStart) {
  const ProcessState self = process_state("/proc", pid());
  EXPECT_TRUE(self.exists);
  EXPECT_FALSE(self.dead);
  EXPECT_NE(self.start_ticks, 0u);
  EXPECT_EQ(self.start_ticks, own_start_ticks());
  EXPECT_FALSE(is_gone("/proc", static_cast<uint32_t>(pid()), self.start_ticks));
  EXPECT_TRUE(is_gone("/proc", static_cast<uint32_t>(pid()), self.start_ticks + 1));
  EXPECT_FALSE(is_gone("/proc", static_cast<uint32_t>(pid()), 0));
}

TEST(Process, IsGoneWhenItIsAZombieAndWhenItWasReaped) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  const ProcessState zombie = process_state("/proc", child);
  EXPECT_TRUE(zombie.exists);
  EXPECT_TRUE(zombie.dead);
  EXPECT_TRUE(is_gone("/proc", static_cast<uint32_t>(child), zombie.start_ticks));
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(process_state("/proc", child).exists);
  EXPECT_TRUE(is_gone("/proc", static_cast<uint32_t>(child), zombie.start_ticks));
}

TEST(Process, LivesWhileAThreadOfItsLivesThoughItsLeaderHasEnded) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    std::thread([&] {
      while (process_state("/proc", pid()).dead == false) {
        char line[512] = {};
        read_small("/proc/self/stat", line, sizeof line - 1);
        if (strstr(line, ") Z ") != nullptr) break;
        usleep(1000);
      }
      [[maybe_unused]] const auto written = write(ready[1], "x", 1);
      pause();
    }).detach();
    syscall(SYS_exit, 0);  // the leader alone
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const ProcessState state = process_state("/proc", child);
  EXPECT_TRUE(state.exists);
  EXPECT_FALSE(state.dead);
  EXPECT_FALSE(is_gone("/proc", static_cast<uint32_t>(child), state.start_ticks));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST(Process, IsOnlyGoneForSureWhereProcShowsForeignNumbers) {
  const Scratch scratch;  // no "self" in it: not our numbers
  scratch.write("proc/" + std::to_string(pid()) + "/stat", stat_line("other", 'Z', 1, 1));
  EXPECT_FALSE(is_gone(scratch.path("proc").c_str(), static_cast<uint32_t>(pid()), 99));
  EXPECT_TRUE(is_gone(scratch.path("proc").c_str(), 0x3ffffe, 99));
}

TEST(Process, IsReadFromATreeThatHasOurNumbers) {
  const Scratch scratch;
  scratch.write("proc/4194303/stat", stat_line("a Zed", 'S', 1, 77));
  std::filesystem::create_symlink(std::to_string(pid()), scratch.path("proc/self"));
  const std::string proc = scratch.path("proc");
  EXPECT_EQ(process_state(proc.c_str(), 4194303).start_ticks, 77u);
  EXPECT_FALSE(is_gone(proc.c_str(), 4194303, 77));
  EXPECT_TRUE(is_gone(proc.c_str(), 4194303, 78));
}

TEST(Process, QuestionsLeaveErrnoAlone) {
  errno = 123;
  is_gone("/proc", 0x3ffffe, 1);
  is_gone("/nowhere", 0x3ffffe, 1);
  own_start_ticks();
  pid_namespace();
  time_namespace();
  EXPECT_EQ(errno, 123);
  EXPECT_NE(pid_namespace(), 0u);
}

std::vector<std::string> lines_of(const std::string& text) {
  const Scratch scratch;
  const int fd = open(scratch.write("file", text).c_str(), O_RDONLY);
  LineReader reader(fd);
  std::vector<std::string> lines;
  for (std::string_view line; reader.next(&line);) {
    lines.push_back((reader.cut() ? "cut:" : "") + std::string(line));
  }
  EXPECT_EQ(reader.error(), 0);
  close(fd);
  return lines;
}

TEST(LineReader, GivesEveryLineOnce) {
  EXPECT_THAT(lines_of(""), ElementsAre());
  EXPECT_THAT(lines_of("a"), ElementsAre("a"));
  EXPECT_THAT(lines_of("a\n"), ElementsAre("a"));
  EXPECT_THAT(lines_of("\n\na\nb"), ElementsAre("", "", "a", "b"));
  EXPECT_THAT(lines_of(std::string("a\0b\nc", 5)), ElementsAre(std::string("a\0b", 3), "c"));
}

TEST(LineReader, CutsLinesThatAreTooLongAndGoesOnBehindThem) {
  const std::string fits(LineReader::kMaxLine - 1, 'x'), full(LineReader::kMaxLine, 'y');
  const std::string much(3 * LineReader::kMaxLine + 5, 'z');
  EXPECT_THAT(lines_of(fits + "\na"), ElementsAre(fits, "a"));
  EXPECT_THAT(lines_of(full + "\na"), ElementsAre("cut:" + full, "a"));
  EXPECT_THAT(lines_of(much + "\na\n"),
              ElementsAre("cut:" + much.substr(0, LineReader::kMaxLine), "a"));
  EXPECT_THAT(lines_of("a\n" + much),
              ElementsAre("a", "cut:" + much.substr(0, LineReader::kMaxLine)));
  EXPECT_THAT(lines_of(much + "\n" + much + "\n"),
              ElementsAre("cut:" + much.substr(0, LineReader::kMaxLine),
                          "cut:" + much.substr(0, LineReader::kMaxLine)));
}

TEST(LineReader, SplitsAsTheStandardLibraryDoes) {
  unsigned random = 1;
  for (int round = 0; round < 200; round++) {
    std::string text;
    for (int i = 0; i < 9000; i++) {
      random = random * 1664525 + 1013904223;
      text += random >> 24 < 2 ? '\n' : 'a';
    }
    std::istringstream stream(text);
    std::vector<std::string> expected;
    for (std::string line; std::getline(stream, line);) {
      const bool cut = line.size() >= LineReader::kMaxLine;
      expected.push_back((cut ? "cut:" : "") + line.substr(0, LineReader::kMaxLine));
    }
    ASSERT_EQ(lines_of(text), expected) << round;
  }
}

TEST(LineReader, TellsAFailedReadFromTheEnd) {
  const int fd = open("/", O_RDONLY);
  LineReader reader(fd);
  std::string_view line;
  EXPECT_FALSE(reader.next(&line));
  EXPECT_EQ(reader.error(), EISDIR);
  close(fd);
}

TEST(DirectoryReader, NamesEverythingOnce) {
  const Scratch scratch;
  std::set<std::string> expected, seen;
  for (int i = 0; i < 300; i++) {
    const std::string name = "a-rather-long-name-" + std::to_string(i);
    expected.insert(name);
    scratch.write(name, "");
  }
  const int fd = open(scratch.path().c_str(), O_RDONLY | O_DIRECTORY);
  DirectoryReader names(fd);
  while (const char* name = names.next()) EXPECT_TRUE(seen.insert(name).second) << name;
  EXPECT_FALSE(names.failed());
  EXPECT_EQ(seen, expected);
  close(fd);
  DirectoryReader closed(-1);
  EXPECT_EQ(closed.next(), nullptr);
  EXPECT_TRUE(closed.failed());
}

TEST(Files, SayWhatTheyAre) {
  const Scratch scratch;
  const std::string file = scratch.write("file", "abc"), link = scratch.path("link");
  ASSERT_EQ(symlink(file.c_str(), link.c_str()), 0);
  FileStatus status, named;
  ASSERT_TRUE(status_of_path(link.c_str(), &status));
  EXPECT_TRUE(status.is_regular());
  EXPECT_EQ(status.size, 3u);
  EXPECT_EQ(status.links, 1u);
  EXPECT_EQ(status.uid, effective_uid());
  struct stat expected = {};
  ASSERT_EQ(stat(file.c_str(), &expected), 0);
  EXPECT_EQ(status.inode, expected.st_ino);
  EXPECT_EQ(status.device, expected.st_dev);
  EXPECT_EQ(status.permissions(), expected.st_mode & 07777);
  EXPECT_EQ(status.mtime_ns, static_cast<uint64_t>(expected.st_mtim.tv_sec) * 1000000000 +
                                 static_cast<uint64_t>(expected.st_mtim.tv_nsec));
  ASSERT_TRUE(status_at(kCurrentDirectory, link.c_str(), &named));
  EXPECT_FALSE(named.is_regular());
  ASSERT_TRUE(status_of_path(scratch.path().c_str(), &status));
  EXPECT_FALSE(status.is_regular());
  EXPECT_FALSE(status_of_path(scratch.path("none").c_str(), &status));
  EXPECT_FALSE(exists(scratch.path("none").c_str()));
}

TEST(Files, AreReadUpToTheRoomThereIs) {
  const Scratch scratch;
  const std::string file = scratch.write("file", "abcdef");
  char buffer[4];
  EXPECT_EQ(read_small(file.c_str(), buffer, sizeof buffer), 4);
  EXPECT_EQ(std::string(buffer, 4), "abcd");
  EXPECT_EQ(read_small(scratch.path("none").c_str(), buffer, sizeof buffer), -ENOENT);
  ASSERT_EQ(mkfifo(scratch.path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(read_small(scratch.path("fifo").c_str(), buffer, sizeof buffer), 0);  // and comes back
}

TEST(Files, AreClosedOnExec) {
  const Scratch scratch;
  const int fd = open_file(scratch.write("file", "").c_str(), O_RDONLY, 0);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  close_file(fd);
}

TEST(Environment, IsReadByWholeNames) {
  Variables variables;
  variables.set("SOFTMIG_TEST_A", "1");
  variables.set("SOFTMIG_TEST_AB", "2=3");
  variables.set("SOFTMIG_TEST_EMPTY", "");
  EXPECT_STREQ(variable("SOFTMIG_TEST_A"), "1");
  EXPECT_STREQ(variable("SOFTMIG_TEST_AB"), "2=3");
  EXPECT_STREQ(variable("SOFTMIG_TEST_EMPTY"), "");
  EXPECT_EQ(variable("SOFTMIG_TEST_"), nullptr);
  EXPECT_FALSE(is_secure());
}

TEST(Environment, MayBeMissing) {
  EXPECT_EQ(in_child([] {
              clearenv();
              return variable("PATH") == nullptr ? 0 : 1;
            }),
            0);
}

TEST(Memory, IsZeroedAndGivenBack) {
  auto* bytes = static_cast<char*>(map_pages(100000));
  ASSERT_NE(bytes, nullptr);
  EXPECT_TRUE(std::all_of(bytes, bytes + 100000, [](char byte) { return byte == 0; }));
  unmap_pages(bytes, 100000);
  unmap_pages(nullptr, 0);
  errno = 123;
  EXPECT_EQ(map_pages(SIZE_MAX / 2), nullptr);
  EXPECT_EQ(errno, 123);
}

TEST(Clock, GoesForward) {
  const uint64_t before = monotonic_ns();
  EXPECT_GE(monotonic_ns(), before);
  const uint64_t coarse = coarse_ns();
  EXPECT_LE(coarse, monotonic_ns());
  EXPECT_LT(monotonic_ns() - coarse, 100'000'000u);
  EXPECT_GT(realtime_ns(), 1'500'000'000ull * 1'000'000'000);
}

TEST(Mutex, LetsOneThreadInAtATime) {
  static Mutex mutex;
  uint64_t count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20000; i++) {
        mutex.lock();
        count++;
        mutex.unlock();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 80000u);
}

TEST(Mutex, WakesAWaiterAndKeepsErrno) {
  Mutex mutex;
  mutex.lock();
  EXPECT_FALSE(mutex.try_lock());
  std::atomic<int> seen{-1};
  std::thread waiter([&] {
    errno = 123;
    mutex.lock();
    seen = errno;
    mutex.unlock();
  });
  usleep(20000);
  EXPECT_EQ(seen, -1);
  mutex.unlock();
  waiter.join();
  EXPECT_EQ(seen, 123);
  EXPECT_TRUE(mutex.try_lock());
}

TEST(Mutex, IsFreeInAForkChildAfterReset) {
  static Mutex mutex;
  mutex.lock();
  EXPECT_EQ(in_child([] {
              mutex.reset();
              alarm(5);
              mutex.lock();
              return 0;
            }),
            0);
  mutex.unlock();
}

}  // namespace
}  // namespace softmig::sys
