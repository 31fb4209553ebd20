#include "job/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <regex>
#include <thread>
#include <vector>

#include "child.h"
#include "scratch.h"

namespace softmig::job {
namespace {

namespace fs = testing::fs;
using testing::contents_of;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::in_child;
using testing::in_child_as;
using testing::kNobody;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

class LogFile : public ::testing::Test {
 protected:
  LogFile() {
    variables.unset("SLURM_TMPDIR");
    variables.unset("SOFTMIG_LOG_FILE");
    umask(022);
    chmod(scratch.path().c_str(), 0755);
    fs::create_directories(log_dir);
    places.log_dir = log_dir.c_str();
    config.identity.job_id = 122;
    configure(4);
  }
  ~LogFile() override { log_configure(Places{.log_dir = "/nowhere"}, Config{}); }

  void configure(int level) {
    config.settings.log_level = level;
    log_after_fork();  // full buckets
    log_configure(places, config);
  }
  void set_file(const std::string& path) {
    snprintf(config.settings.log_file, sizeof config.settings.log_file, "%s", path.c_str());
    configure(config.settings.log_level);
  }
  std::string text() { return contents_of(log_dir + "/122.log"); }
  std::vector<std::string> lines() {
    std::istringstream stream(text());
    std::vector<std::string> all;
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
  }
  static mode_t mode_of(const std::string& path) {
    struct stat status = {};
    return stat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }

  testing::Scratch scratch;
  testing::Variables variables;
  const std::string log_dir = scratch.path("log");
  Places places;
  Config config;
};

// What was written to standard error while `body` ran.
std::string console_of(const std::function<void()>& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

TEST_F(LogFile, HasLinesOfTimePidLevelAndText) {
  configure(0);
  log(LogLevel::kError, "%d of %s", 3, "four");
  EXPECT_THAT(text(), MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z " +
                                   std::to_string(getpid()) + " error: 3 of four\n"));
  char now[32];
  const time_t seconds = time(nullptr);
  strftime(now, sizeof now, "%Y-%m-%dT%H:%M", gmtime(&seconds));
  EXPECT_THAT(text(), StartsWith(now));
}

TEST_F(LogFile, HasTheLevelsThatWereAskedFor) {
  const LogLevel levels[] = {LogLevel::kError, LogLevel::kWarning, LogLevel::kDebug,
                             LogLevel::kInfo, LogLevel::kTrace};
  for (int level = 0; level <= 4; level++) {
    configure(level);
    fs::remove(log_dir + "/122.log");
    console_of([&] {
      for (const LogLevel each : levels) {
        EXPECT_EQ(log_enabled(each), static_cast<int>(each) <= level);
        log(each, "x");
      }
    });
    EXPECT_EQ(lines().size(), static_cast<size_t>(level) + 1);
  }
}

TEST_F(LogFile, IsAllThereIsBelowLevelThree) {
  for (int level = 0; level <= 4; level++) {
    configure(level);
    ::testing::internal::CaptureStdout();
    const std::string console = console_of([] {
      log(LogLevel::kError, "hello");
      log(LogLevel::kDebug, "hello");
    });
    EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
    if (level < 3) {
      EXPECT_EQ(console, "") << level;
    } else {
      EXPECT_THAT(console, StartsWith("softmig: 2"));
      EXPECT_THAT(console, HasSubstr("error: hello\nsoftmig: 2"));
    }
  }
}

TEST_F(LogFile, CannotBeForgedByWhatIsPrinted) {
  configure(0);
  log(LogLevel::kError, "name %s end",
      "a\n2026-01-01T00:00:00Z 1 error: forged\r\x1b[2J\xc3\xa9\\");
  ASSERT_EQ(lines().size(), 1u);
  EXPECT_THAT(lines()[0], EndsWith("name a\\x0a2026-01-01T00:00:00Z 1 error: forged\\x0d\\x1b[2J"
                                   "\\xc3\\xa9\\x5c end"));
}

TEST_F(LogFile, CutsLongLines) {
  configure(0);
  log(LogLevel::kError, "%s", std::string(100000, 'x').c_str());
  log(LogLevel::kError, "next");
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_LE(lines()[0].size() + 1, kLogLineBytes);
  EXPECT_GT(lines()[0].size(), kLogLineBytes - 20);
  EXPECT_THAT(lines()[0], EndsWith("xxx ..."));
}

TEST_F(LogFile, TakesABurstAndThenSaysHowManyLinesWereLeftOut) {
  configure(1);
  for (int i = 0; i < 500; i++) log(LogLevel::kWarning, "line %d", i);
  const size_t written = lines().size();
  EXPECT_GE(written, kLogBurst);
  EXPECT_LE(written, kLogBurst + 10);
  log(LogLevel::kError, "errors have room of their own");
  EXPECT_THAT(lines().back(), HasSubstr("room of their own"));
  usleep(250000);
  log(LogLevel::kWarning, "later");
  ASSERT_GE(lines().size(), written + 3);
  EXPECT_THAT(lines().back(), EndsWith("warning: later"));
  EXPECT_THAT(text(), HasSubstr(std::to_string(500 - written) + " lines left out\n"));
}

TEST_F(LogFile, IsBoundedInSizeAndEndsWithOneLastLine) {
  const std::string path = scratch.write("log/122.log", "");
  ASSERT_EQ(truncate(path.c_str(), kLogFileBytes - 3500), 0);
  configure(0);
  const std::string long_text(400, 'x');
  for (int i = 0; i < 20; i++) log(LogLevel::kError, "%s", long_text.c_str());
  const auto ends = [](const std::string& whole) {
    size_t count = 0;
    for (size_t at = 0; (at = whole.find("this log is full", at)) != std::string::npos; at++)
      count++;
    return count;
  };
  EXPECT_EQ(fs::file_size(path), kLogFileBytes);
  const std::string whole = text();
  EXPECT_EQ(ends(whole), 1u);
  const std::string last_words = "this log is full: nothing more is written to it";
  const size_t padding = whole.rfind(last_words) + last_words.size();
  EXPECT_EQ(whole.substr(padding), std::string(whole.size() - padding - 1, ' ') + '\n');
  in_child([&] {
    log_after_fork();
    log(LogLevel::kError, "short");
    return 0;
  });
  EXPECT_EQ(fs::file_size(path), kLogFileBytes);
}

TEST_F(LogFile, IsNamedAfterJobArrayTaskOrProcess) {
  config.identity.has_array = true;
  config.identity.array_task = 3;
  configure(0);
  log(LogLevel::kError, "x");
  EXPECT_TRUE(fs::exists(log_dir + "/122_3.log"));
  config.identity = {};
  configure(0);
  log(LogLevel::kError, "x");
  EXPECT_TRUE(fs::exists(log_dir + "/pid" + std::to_string(getpid()) + ".log"));
}

TEST_F(LogFile, GoesToTheTemporaryDirectoryWhereItsOwnCannotBeWritten) {
  const std::string tmp = scratch.path("tmp");
  fs::create_directories(tmp);
  variables.set("SLURM_TMPDIR", tmp);
  places.log_dir = "/nowhere";
  configure(0);
  log(LogLevel::kError, "x");
  EXPECT_THAT(contents_of(tmp + "/softmig_122.log"), EndsWith("error: x\n"));
}

TEST_F(LogFile, IsGivenUpInSilenceWhereNothingCanBeWritten) {
  variables.set("SLURM_TMPDIR", "relative");
  for (const char* nowhere : {"/nowhere", "/proc", "/dev/null", ""}) {
    places.log_dir = nowhere;
    configure(2);
    errno = 123;
    EXPECT_EQ(console_of([] { log(LogLevel::kError, "x"); }), "");
    EXPECT_EQ(errno, 123);
  }
}

TEST_F(LogFile, OfAUserWithoutPermissionGoesToTheTemporaryDirectory) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const std::string tmp = scratch.path("tmp");
  fs::create_directories(tmp);
  chmod(tmp.c_str(), 0777);
  variables.set("SLURM_TMPDIR", tmp);
  configure(0);
  EXPECT_EQ(in_child_as(kNobody, [] { return log(LogLevel::kError, "x"), 0; }), 0);
  EXPECT_FALSE(fs::exists(log_dir + "/122.log"));
  EXPECT_TRUE(fs::exists(tmp + "/softmig_122.log"));
}

TEST_F(LogFile, OfAnotherUserIsWrittenOnlyIfItsPermissionsSaySo) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const std::string path = scratch.write("log/122.log", "");
  configure(0);
  const auto write_as_nobody = [] { return log(LogLevel::kError, "x"), 0; };
  in_child_as(kNobody, write_as_nobody);
  EXPECT_EQ(text(), "");
  chmod(path.c_str(), 0666);
  in_child_as(kNobody, write_as_nobody);
  EXPECT_THAT(text(), EndsWith("x\n"));
  EXPECT_EQ(mode_of(path), 0666u);
}

TEST_F(LogFile, IsMadeReadableForAllAndWritableForItsOwnerWhateverTheUmask) {
  configure(0);
  for (const mode_t mask : {077, 0, 0777, 022}) {
    fs::remove(log_dir + "/122.log");
    const mode_t before = umask(mask);
    log(LogLevel::kError, "x");
    EXPECT_EQ(umask(before), mask) << "the program's umask is its own";
    EXPECT_EQ(mode_of(log_dir + "/122.log"), 0644u) << mask;
  }
}

TEST_F(LogFile, KeepsTheModeThatItWasGiven) {
  const std::string path = scratch.write("log/122.log", "");
  chmod(path.c_str(), 0600);
  configure(0);
  log(LogLevel::kError, "x");
  EXPECT_EQ(mode_of(path), 0600u);
}

TEST_F(LogFile, MayBeNamedByTheUser) {
  set_file(scratch.path("my.log"));
  console_of([] { log(LogLevel::kError, "x"); });
  EXPECT_THAT(contents_of(scratch.path("my.log")), EndsWith("x\n"));
  EXPECT_EQ(text(), "");
}

TEST_F(LogFile, IsTheUsualOneWhereTheNamedOneIsNotARegularFile) {
  config.settings.log_level = 0;
  const std::string victim = scratch.write("victim", "v"), link = scratch.path("link"),
                    fifo = scratch.path("fifo"), hard = scratch.path("hard");
  ASSERT_EQ(symlink(victim.c_str(), link.c_str()), 0);
  ASSERT_EQ(mkfifo(fifo.c_str(), 0666), 0);
  ASSERT_EQ(::link(victim.c_str(), hard.c_str()), 0);
  size_t expected = 0;
  for (const std::string& unfit : {std::string("/dev/full"), std::string("/dev/null"), log_dir,
                                   link, fifo, hard, std::string("/nowhere/x.log")}) {
    set_file(unfit);
    log(LogLevel::kError, "instead of %s", unfit.c_str());
    ASSERT_EQ(lines().size(), ++expected) << unfit;
  }
  EXPECT_EQ(contents_of(victim), "v");
}

TEST_F(LogFile, IsNotBlockedByAFifoThatSomebodyReads) {
  const std::string fifo = scratch.path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0666), 0);
  const int reader = open(fifo.c_str(), O_RDONLY | O_NONBLOCK);
  config.settings.log_level = 0;
  set_file(fifo);
  log(LogLevel::kError, "x");
  pollfd seen = {.fd = reader, .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&seen, 1, 0), 0) << "it was opened";
  EXPECT_EQ(lines().size(), 1u);
  close(reader);
}

TEST_F(LogFile, IsNotFollowedThroughAPlantedLink) {
  const std::string victim = scratch.write("victim", "v");
  ASSERT_EQ(symlink(victim.c_str(), (log_dir + "/122.log").c_str()), 0);
  configure(0);
  log(LogLevel::kError, "x");
  EXPECT_EQ(contents_of(victim), "v");
}

TEST_F(LogFile, IsFullWithoutASignalWhereTheProgramMayNotWriteMore) {
  configure(0);
  EXPECT_EQ(in_child([] {
              const rlimit limit = {66000, 66000};
              setrlimit(RLIMIT_FSIZE, &limit);
              for (int i = 0; i < 40; i++)
                log(LogLevel::kError, "%s", std::string(900, 'x').c_str());
              const rlimit nothing = {0, 0};
              setrlimit(RLIMIT_FSIZE, &nothing);
              log(LogLevel::kError, "x");
              return 0;
            }),
            0);
  EXPECT_LE(text().size(), 66000u);
}

TEST_F(LogFile, NeedsNoDescriptorOfItsOwn) {
  configure(0);
  EXPECT_EQ(in_child([] {
              log(LogLevel::kError, "before");
              for (int fd = 0; fd < 1024; fd++) close(fd);  // as daemons do
              log(LogLevel::kError, "without any descriptor");
              const int first = open("/dev/null", O_RDONLY);
              return first == 0 ? 0 : 1;
            }),
            0);
  EXPECT_EQ(lines().size(), 2u);
}

TEST_F(LogFile, IsGivenUpWhereNoDescriptorIsLeft) {
  configure(2);
  EXPECT_EQ(in_child([] {
              const rlimit few = {8, 8};
              setrlimit(RLIMIT_NOFILE, &few);
              while (open("/dev/null", O_RDONLY) >= 0) {
              }
              errno = 123;
              log(LogLevel::kError, "x");
              return errno == 123 ? 0 : 1;
            }),
            0);
  EXPECT_EQ(text(), "");
}

TEST_F(LogFile, NeverWritesIntoAFileOfTheProgram) {
  configure(0);
  log(LogLevel::kError, "one");
  const std::string own = scratch.write("own", "");
  const int fd = open(own.c_str(), O_WRONLY);  // takes the number that the log had
  log(LogLevel::kError, "two");
  close(fd);
  EXPECT_EQ(contents_of(own), "");
  EXPECT_EQ(lines().size(), 2u);
}

TEST_F(LogFile, FollowsARotation) {
  configure(0);
  log(LogLevel::kError, "one");
  fs::rename(log_dir + "/122.log", log_dir + "/122.log.1");
  log(LogLevel::kError, "two");
  EXPECT_EQ(lines().size(), 1u);
}

TEST_F(LogFile, OfAForkChildHasItsOwnPid) {
  config.identity = {};
  configure(0);
  log(LogLevel::kError, "parent");
  EXPECT_EQ(in_child([&] {
              log_after_fork();
              log(LogLevel::kError, "child");
              return contents_of(log_dir + "/pid" + std::to_string(getpid()) + ".log").empty();
            }),
            0);
}

TEST_F(LogFile, OfAForkChildWorksWhateverTheParentWasDoing) {
  configure(0);
  std::atomic<bool> stop{false};
  std::thread configurer([&] {
    while (!stop) log_configure(places, config);
  });
  std::thread writer([&] {
    while (!stop) log(LogLevel::kError, "parent");
  });
  for (int i = 0; i < 200; i++) {
    EXPECT_EQ(in_child([&] {
                alarm(10);
                log_after_fork();
                config.identity.has_array = true;
                config.identity.array_task = static_cast<uint64_t>(i);
                log_configure(places, config);
                log(LogLevel::kError, "child");
                return 0;
              }),
              0);
  }
  stop = true;
  configurer.join();
  writer.join();
  for (int i = 0; i < 200; i++) {
    ASSERT_THAT(contents_of(log_dir + "/122_" + std::to_string(i) + ".log"), EndsWith("child\n"));
  }
}

TEST_F(LogFile, HasWholeLinesWhenManyThreadsWrite) {
  configure(0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; i++) {
        log(LogLevel::kError, "%s", std::string(300, static_cast<char>('a' + t)).c_str());
        log_configure(places, config);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines().size(), 40u);
  const std::regex whole(".* error: (a{300}|b{300}|c{300}|d{300})");
  for (const std::string& line : lines()) EXPECT_TRUE(std::regex_match(line, whole)) << line;
}

TEST_F(LogFile, MayBeWrittenInASignalHandler) {
  configure(0);
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) { log(LogLevel::kError, "from the handler"); };
  sigaction(SIGALRM, &action, &before);
  const itimerval often = {{0, 500}, {0, 500}}, never = {};
  setitimer(ITIMER_REAL, &often, nullptr);
  for (int i = 0; i < 2000; i++) {
    log_configure(places, config);
    log(LogLevel::kError, "from the program");
  }
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
  const std::regex whole(".* error: (from the (handler|program)|[0-9]+ lines left out)");
  for (const std::string& line : lines()) EXPECT_TRUE(std::regex_match(line, whole)) << line;
}

TEST_F(LogFile, SaysNothingBeforeItIsConfigured) {
  EXPECT_EQ(in_child([] {
              Config passive;
              log_configure(Places{.log_dir = ""}, passive);
              log(LogLevel::kError, "x");
              return 0;
            }),
            0);
  EXPECT_EQ(text(), "");
}

TEST_F(LogFile, OnTheConsoleNeitherBlocksNorKills) {
  configure(4);
  EXPECT_EQ(in_child([] {
              int ends[2];
              if (pipe(ends) != 0) return 2;
              dup2(ends[1], 2);
              close(ends[1]);
              alarm(5);
              for (int i = 0; i < 200; i++) {  // more than a pipe holds
                log_after_fork();
                log(LogLevel::kError, "%s", std::string(1000, 'x').c_str());
              }
              close(ends[0]);  // nobody reads: SIGPIPE
              log_after_fork();
              log(LogLevel::kError, "x");
              close(2);
              log(LogLevel::kError, "x");
              return 0;
            }),
            0);
}

TEST_F(LogFile, CostsTheProgramLittle) {
  configure(4);
  const int saved = dup(2), null = open("/dev/null", O_WRONLY);
  dup2(null, 2);
  for (int i = 0; i < 100; i++) log(LogLevel::kError, "x");  // the bucket is empty now
  timespec before = {}, after = {};
  clock_gettime(CLOCK_MONOTONIC, &before);
  for (int i = 0; i < 100000; i++) log(LogLevel::kError, "%s", "x");
  clock_gettime(CLOCK_MONOTONIC, &after);
  dup2(saved, 2);
  close(saved);
  close(null);
  const double seconds = static_cast<double>(after.tv_sec - before.tv_sec) +
                         static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
  EXPECT_LT(seconds, 1.0) << "a line that is left out must cost less than 10 us";
}

}  // namespace
}  // namespace softmig::job
