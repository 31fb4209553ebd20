#include "job/config.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "base/bytes.h"
#include "child.h"
#include "job/log.h"
#include "scratch.h"
#include "sys/self.h"

namespace softmig::job {
namespace {

using base::kGiB;
using base::kMiB;
using ::testing::HasSubstr;
namespace fs = testing::fs;
using testing::contents_of;
using testing::in_child_as;
using testing::kNobody;

constexpr const char* kV1 =
    "9:name=systemd:/\n6:freezer:/slurm_n1/uid_5001/job_122/step_batch\n"
    "4:memory:/slurm_n1/uid_5001/job_122/step_batch/task_0\n1:cpu:/\n0::/\n";
constexpr const char* kV2 = "0::/system.slice/n1_slurmstepd.scope/job_122/step_batch/user/task_0\n";
constexpr const char* kHybrid =
    "3:freezer:/\n1:cpu:/\n0::/system.slice/slurmstepd.scope/job_122/step_0/user/task_0\n";
constexpr const char* kSession = "0::/user.slice/user-5001.slice/session-3.scope\n";

// A node with its own run directory, /proc and log directory, and no Slurm variables.
class Node : public ::testing::Test {
 protected:
  Node() {
    for (const char* name : {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
                             "SLURM_TMPDIR", "CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_SM_LIMIT",
                             "SOFTMIG_LOG_LEVEL", "SOFTMIG_LOG_FILE", "ACTIVE_OOM_KILLER"}) {
      variables.unset(name);
    }
    umask(022);
    chmod(scratch.path().c_str(), 0755);
    fs::create_directories(run_dir);
    fs::create_directories(log_dir);
    places = {run_dir.c_str(), proc.c_str(), log_dir.c_str(), sys::effective_uid()};
    set_proc("cgroup", kV2);
  }
  ~Node() override { log_configure(places, Config{}); }

  void set_proc(const std::string& name, const std::string& contents) {
    scratch.write("proc/self/" + name, contents);
  }
  std::string write_config(const std::string& name, const std::string& contents) {
    return scratch.write("run/" + name, contents);
  }
  // As root's tools do it.
  void replace_config(const std::string& name, const std::string& contents) {
    fs::rename(scratch.write("run/" + name + ".new", contents), run_dir + "/" + name);
  }
  void user_namespace(const std::string& map) { set_proc("uid_map", map); }
  // This process is in another cgroup namespace than the one on record.
  void hide_job() {
    set_proc("ns/cgroup", "");
    write_config("cgroup_ns", "4026531835\n");
  }

  Config load() {
    Config config;
    load_config(places, &config);
    return config;
  }
  Identity who() { return identify(places); }
  std::string log_text() {
    std::string text;
    for (const auto& entry : fs::directory_iterator(log_dir)) text += contents_of(entry.path());
    return text;
  }
  uint64_t limit_of(const Config& config, int device = 0) {
    return policy::memory_limit(config.settings, device);
  }

  testing::Scratch scratch;
  testing::Variables variables;
  const std::string run_dir = scratch.path("run"), proc = scratch.path("proc"),
                    log_dir = scratch.path("log");
  Places places;
};

using Identification = Node;

TEST_F(Identification, ComesFromTheCgroupInEveryLayout) {
  for (const char* layout : {kV1, kV2, kHybrid}) {
    set_proc("cgroup", layout);
    EXPECT_EQ(who().job_id, 122u) << layout;
    EXPECT_TRUE(who().from_cgroup);
    EXPECT_FALSE(who().hidden);
  }
}

TEST_F(Identification, OfANestedJobIsTheOuterOne) {
  set_proc("cgroup", "0::/slurmstepd.scope/job_122/step_0/user/task_0/slurmstepd.scope/job_7\n");
  EXPECT_EQ(who().job_id, 122u);
}

TEST_F(Identification, IsNotForgedByVariables) {
  variables.set("SLURM_JOB_ID", "999");
  EXPECT_EQ(who().job_id, 122u);
  EXPECT_TRUE(who().from_cgroup);
}

TEST_F(Identification, FallsBackToTheVariableOnlyWhereTheCgroupNamesNoJob) {
  set_proc("cgroup", "0::/system.slice/slurmd.service\n");
  variables.set("SLURM_JOB_ID", "999");
  EXPECT_EQ(who().job_id, 999u);
  EXPECT_FALSE(who().from_cgroup);
  for (const char* bad : {"", "abc", "12x", "-1", "../5", "99999999999999999999"}) {
    variables.set("SLURM_JOB_ID", bad);
    EXPECT_EQ(who().job_id, 0u) << bad;
  }
}

TEST_F(Identification, OfASessionOutsideOfJobsIsNone) {
  set_proc("cgroup", kSession);
  EXPECT_EQ(who().job_id, 0u);
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(Identification, NeedsNoProc) {
  places.proc = "/nowhere";
  EXPECT_EQ(who().job_id, 0u);
  variables.set("SLURM_JOB_ID", "5");
  EXPECT_EQ(who().job_id, 5u);
}

TEST_F(Identification, TakesTheArrayFromTheEnvironment) {
  EXPECT_FALSE(who().has_array);
  variables.set("SLURM_ARRAY_JOB_ID", "120");
  variables.set("SLURM_ARRAY_TASK_ID", "3");
  EXPECT_TRUE(who().has_array);
  EXPECT_EQ(who().array_job, 120u);
  EXPECT_EQ(who().array_task, 3u);
  variables.set("SLURM_ARRAY_TASK_ID", "../3");
  EXPECT_FALSE(who().has_array);
}

TEST_F(Identification, SeesAForeignCgroupNamespace) {
  hide_job();
  EXPECT_TRUE(who().hidden);
  EXPECT_EQ(who().job_id, 0u);  // whatever the path says
  struct stat status = {};
  ASSERT_EQ(stat((proc + "/self/ns/cgroup").c_str(), &status), 0);
  write_config("cgroup_ns", std::to_string(status.st_ino) + "\n");
  EXPECT_FALSE(who().hidden);
  EXPECT_EQ(who().job_id, 122u);
}

TEST_F(Identification, TakesTheFirstNamespaceForSlurmdsWhereTheRecordIsNotRoots) {
  hide_job();
  struct stat status = {};
  ASSERT_EQ(stat((proc + "/self/ns/cgroup").c_str(), &status), 0);
  write_config("cgroup_ns", std::to_string(status.st_ino) + "\n");
  chmod((run_dir + "/cgroup_ns").c_str(), 0666);
  EXPECT_TRUE(who().hidden);
  chmod((run_dir + "/cgroup_ns").c_str(), 0644);
  EXPECT_FALSE(who().hidden);
  write_config("cgroup_ns", "rubbish\n");
  EXPECT_TRUE(who().hidden);
  fs::remove(run_dir + "/cgroup_ns");
  EXPECT_FALSE(who().hidden) << "no record: the path is believed";
}

TEST_F(Identification, IsNotLostWhereAUserHasNoMap) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  hide_job();
  user_namespace("");
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_EQ(in_child_as(kNobody, [&] { return load().source == Source::kClosed ? 0 : 1; }), 0);
}

using ConfigFile = Node;

TEST_F(ConfigFile, GivesTheLimitsOfItsJob) {
  const std::string path =
      write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=12288M\nCUDA_DEVICE_SM_LIMIT=25\n");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kFile);
  EXPECT_EQ(config.path, path);
  EXPECT_STREQ(config.error, "");
  EXPECT_EQ(limit_of(config), 12 * kGiB);
  EXPECT_EQ(policy::sm_limit(config.settings, 0), 25u);
}

TEST_F(ConfigFile, MayHaveCrlfCommentsAndNoFinalNewline) {
  write_config(
      "122.conf",
      "# a quarter\r\n\r\nCUDA_DEVICE_MEMORY_LIMIT = 12 GB\r\n  # x\nCUDA_DEVICE_SM_LIMIT=25");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kFile) << config.error;
  EXPECT_EQ(limit_of(config), 12 * kGiB);
  EXPECT_EQ(policy::sm_limit(config.settings, 0), 25u);
}

TEST_F(ConfigFile, OfAnotherJobMeansNothing) {
  write_config("123.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("12.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("1220.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("1220_1.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(ConfigFile, OfAnArrayTaskIsFoundWhateverTheVariableSays) {
  write_config("122_3.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  for (const char* task : {"3", "4", "x", ""}) {
    variables.set("SLURM_ARRAY_TASK_ID", task);
    const Config config = load();
    EXPECT_EQ(config.source, Source::kFile) << task;
    EXPECT_EQ(config.path, run_dir + "/122_3.conf");
  }
  variables.unset("SLURM_ARRAY_TASK_ID");
  EXPECT_EQ(load().source, Source::kFile);
}

TEST_F(ConfigFile, OfTheJobStandsBeforeThatOfTheArrayTask) {
  variables.set("SLURM_ARRAY_TASK_ID", "3");
  write_config("122_3.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("122_4.conf", "CUDA_DEVICE_MEMORY_LIMIT=2G\n");
  EXPECT_EQ(limit_of(load()), kGiB);
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=3G\n");
  EXPECT_EQ(limit_of(load()), 3 * kGiB);
}

TEST_F(ConfigFile, WithABadValueClosesAndSaysWhere) {
  const std::string path = write_config(
      "122.conf", "# x\nCUDA_DEVICE_SM_LIMIT=25\nCUDA_DEVICE_MEMORY_LIMIT=12Q\x1b[B\n");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kClosed);
  EXPECT_EQ(config.path, path);
  EXPECT_STREQ(config.error, (path + ":3: CUDA_DEVICE_MEMORY_LIMIT: \"12Q\\x1b[B\" is not a size "
                                     "such as 12288M, 24G or 1.5GiB")
                                 .c_str());
  EXPECT_FALSE(config_changed(places, config));
}

TEST_F(ConfigFile, IsClosedForEveryKindOfBadLine) {
  for (const char* line :
       {"CUDA_DEVICE_MEMORY_LIMIT=", "CUDA_DEVICE_MEMORY_LIMIT=-1", "CUDA_DEVICE_MEMORY_LIMIT=1e3M",
        "CUDA_DEVICE_SM_LIMIT=101", "CUDA_DEVICE_MEMORY_LIMIT_16=1G", "ACTIVE_OOM_KILLER=maybe",
        "SOFTMIG_LOG_LEVEL=9", "SOFTMIG_SLOTS=4/4", "SOFTMIG_GPUS=0", "SOFTMIG_UID=me", "no sign",
        "=1", "a b=1"}) {
    write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n" + std::string(line) + "\n");
    const Config config = load();
    EXPECT_EQ(config.source, Source::kClosed) << line;
    EXPECT_THAT(config.error, HasSubstr("122.conf:2: ")) << line;
  }
}

TEST_F(ConfigFile, ThatIsEmptyOrHasNoKnownKeyIsClosed) {
  for (const char* text : {"", "\n", "# CUDA_DEVICE_MEMORY_LIMIT=1G\n", "NEW_KEY=1\n"}) {
    write_config("122.conf", text);
    EXPECT_EQ(load().source, Source::kClosed) << text;
  }
}

TEST_F(ConfigFile, WithUnknownKeysIsReadAndTheyAreLogged) {
  write_config("122.conf",
               "CUDA_DEVICE_MEMORY_LIMIT=4G\nFUTURE_KEY=1\nCUDA_DEVICE_MEMORY_LIMT=1\n");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kFile);
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  EXPECT_THAT(log_text(), HasSubstr(run_dir + "/122.conf: 2 unknown keys ignored, line and key: "
                                              "2: FUTURE_KEY, 3: CUDA_DEVICE_MEMORY_LIMT\n"));
}

TEST_F(ConfigFile, WithCountlessUnknownKeysIsReadAllTheSame) {
  std::string text = "CUDA_DEVICE_MEMORY_LIMIT=4G\n";
  for (int i = 0; i < 1000; i++) text += "KEY_" + std::string(50, 'x') + "=1\n";
  write_config("122.conf", text);
  EXPECT_EQ(load().source, Source::kFile);
  EXPECT_THAT(log_text(), HasSubstr("1000 unknown keys"));
}

TEST_F(ConfigFile, HasALimitOfSize) {
  const std::string key = "CUDA_DEVICE_MEMORY_LIMIT=4G\n";
  std::string comments(kMaxConfigBytes - key.size(), '#');
  for (size_t i = 100; i < comments.size(); i += 100) comments[i] = '\n';
  write_config("122.conf", key + comments);
  EXPECT_EQ(load().source, Source::kFile) << load().error;
  write_config("122.conf", key + comments + "#");
  EXPECT_EQ(load().source, Source::kClosed);
  write_config("122.conf", key + "#" + std::string(5000, 'x') + "\n");
  EXPECT_EQ(load().source, Source::kClosed);
  EXPECT_THAT(load().error, HasSubstr("too long"));
}

TEST_F(ConfigFile, WithBytesThatAreNoTextIsClosed) {
  std::string text = "CUDA_DEVICE_MEMORY_LIMIT=4G\n";
  write_config("122.conf", text + std::string("\0\0\0\0", 4));
  EXPECT_EQ(load().source, Source::kClosed);
  write_config("122.conf", std::string("CUDA_DEVICE_MEMORY_LIMIT=4G\0\n", 29));
  EXPECT_EQ(load().source, Source::kClosed);
}

TEST_F(ConfigFile, KeepsErrnoAndOpensNothingForGood) {
  const auto open_files = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\nUNKNOWN=1\n");
  const auto before = open_files();
  const auto look_at_all = [&] {
    errno = 123;
    Config config = load();
    config_changed(places, config);
    reload_config(places, &config);
    EXPECT_EQ(errno, 123);
  };
  look_at_all();
  write_config("122.conf", "rubbish");
  look_at_all();
  unlink((run_dir + "/122.conf").c_str());
  look_at_all();
  hide_job();
  look_at_all();
  EXPECT_EQ(open_files(), before);
}

using Trust = Node;

TEST_F(Trust, IsNotGivenToLinksAndThingsThatAreNoFiles) {
  const std::string good = scratch.write("good", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const std::string path = run_dir + "/122.conf";
  ASSERT_EQ(symlink(good.c_str(), path.c_str()), 0);
  EXPECT_EQ(load().source, Source::kClosed);
  EXPECT_THAT(load().error, HasSubstr("122.conf: is a symbolic link"));
  unlink(path.c_str());
  ASSERT_EQ(link(good.c_str(), path.c_str()), 0);
  EXPECT_EQ(load().source, Source::kClosed);
  EXPECT_THAT(load().error, HasSubstr("more than one link"));
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0644), 0);
  EXPECT_EQ(load().source, Source::kClosed);  // at once
  EXPECT_THAT(load().error, HasSubstr("not a regular file"));
  unlink(path.c_str());
  ASSERT_EQ(mkdir(path.c_str(), 0755), 0);
  EXPECT_EQ(load().source, Source::kClosed);
  rmdir(path.c_str());
  ASSERT_EQ(symlink("/nowhere", path.c_str()), 0);
  EXPECT_EQ(load().source, Source::kClosed);
}

TEST_F(Trust, IsNotGivenToWhatOthersCanWrite) {
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  for (const int mode : {0666, 0664, 0646}) {
    chmod(path.c_str(), static_cast<mode_t>(mode));
    EXPECT_EQ(load().source, Source::kClosed) << mode;
  }
  chmod(path.c_str(), 0600);
  EXPECT_EQ(load().source, Source::kFile);
  for (const int mode : {0777, 0775, 01777}) {
    chmod(run_dir.c_str(), static_cast<mode_t>(mode));
    EXPECT_EQ(load().source, Source::kClosed) << mode;
    EXPECT_THAT(load().error, HasSubstr("directory " + run_dir + ": can be written"));
  }
}

TEST_F(Trust, IsNotGivenToAnotherOwner) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(load().source, Source::kClosed);
  EXPECT_THAT(load().error, HasSubstr("does not belong to root"));
  ASSERT_EQ(chown(path.c_str(), 0, 0), 0);
  EXPECT_EQ(load().source, Source::kFile);
  ASSERT_EQ(chown(run_dir.c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(load().source, Source::kClosed);
}

TEST_F(Trust, IsGivenToRootsFilesByAnyUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_EQ(in_child_as(kNobody, [&] { return load().source == Source::kFile ? 0 : 1; }), 0);
  chmod(run_dir.c_str(), 0711);
  EXPECT_EQ(in_child_as(kNobody, [&] { return load().source == Source::kFile ? 0 : 1; }), 0);
}

TEST_F(Trust, OfWhatAUserMayNotReadIsNone) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const auto closed = [&] { return load().source == Source::kClosed ? 0 : 1; };
  chmod(path.c_str(), 0600);
  EXPECT_EQ(in_child_as(kNobody, closed), 0);
  chmod(path.c_str(), 0644);
  chmod(run_dir.c_str(), 0700);
  EXPECT_EQ(in_child_as(kNobody, closed), 0);
}

TEST_F(Trust, OfADirectoryThatIsALinkIsNone) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const std::string link = scratch.path("link");
  ASSERT_EQ(symlink(run_dir.c_str(), link.c_str()), 0);
  places.run_dir = link.c_str();
  EXPECT_EQ(load().source, Source::kClosed);
}

TEST_F(Trust, IsNotNeededWhereThereIsNothing) {
  places.run_dir = "/nowhere/softmig";
  EXPECT_EQ(load().source, Source::kNone);
  hide_job();
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(Trust, ConfigsOfAUserNamespaceBelongToTheOverflowUid) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  user_namespace("         0       5001          1\n");
  EXPECT_EQ(load().source, Source::kClosed) << "uid 0 is the caller himself here";
  ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
  ASSERT_EQ(chown(run_dir.c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(load().source, Source::kFile) << load().error;
  EXPECT_EQ(in_child_as(kNobody, [&] { return load().source == Source::kClosed ? 0 : 1; }), 0)
      << "a user without a map cannot tell his own files from root's";
  scratch.write("proc/sys/kernel/overflowuid", "65533\n");
  EXPECT_EQ(load().source, Source::kClosed);
  user_namespace("         0          0 4294967295\n");
  EXPECT_EQ(load().source, Source::kClosed);
}

using HiddenJob = Node;

TEST_F(HiddenJob, GetsTheSmallestLimitsOfItsUser) {
  hide_job();
  const std::string uid = "SOFTMIG_UID=" + std::to_string(getuid()) + "\n";
  write_config("7.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=8G\nCUDA_DEVICE_SM_LIMIT=25\n");
  write_config("8_2.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=4G\nCUDA_DEVICE_SM_LIMIT=50\n");
  write_config("9.conf", "SOFTMIG_UID=77777\nCUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("10.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("note.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  write_config("11.conf.new", uid + "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kUid);
  EXPECT_TRUE(config.identity.hidden);
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  EXPECT_EQ(policy::sm_limit(config.settings, 0), 25u);
  EXPECT_THAT(log_text(), HasSubstr("the job of this process is hidden"));
}

TEST_F(HiddenJob, KeepsLimitsByDeviceIfItIsTheOnlyOne) {
  hide_job();
  write_config("7.conf", "SOFTMIG_UID=" + std::to_string(getuid()) +
                             "\nCUDA_DEVICE_MEMORY_LIMIT_0=8G\nCUDA_DEVICE_MEMORY_LIMIT_1=4G\n");
  const Config config = load();
  EXPECT_EQ(config.identity.job_id, 7u);
  EXPECT_EQ(limit_of(config, 0), 8 * kGiB);
  EXPECT_EQ(limit_of(config, 1), 4 * kGiB);
}

TEST_F(HiddenJob, CannotChooseItsLimitsByAVariable) {
  hide_job();
  const std::string uid = "SOFTMIG_UID=" + std::to_string(getuid()) + "\n";
  write_config("7.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  write_config("8.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  for (const char* job : {"7", "8"}) {
    variables.set("SLURM_JOB_ID", job);
    const Config config = load();
    EXPECT_EQ(limit_of(config), 4 * kGiB);
    EXPECT_EQ(std::to_string(config.identity.job_id), job);  // only the ledger is
  }
}

TEST_F(HiddenJob, OfAUserWithoutJobsIsNotLimited) {
  hide_job();
  write_config("9.conf", "SOFTMIG_UID=77777\nCUDA_DEVICE_MEMORY_LIMIT=1G\n");
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(HiddenJob, IsClosedWhereTheOnlyConfigCannotBeRead) {
  hide_job();
  write_config("9.conf", "CUDA_DEVICE_MEMORY_LIMIT=1Q\n");
  EXPECT_EQ(load().source, Source::kClosed);
  write_config("7.conf",
               "SOFTMIG_UID=" + std::to_string(getuid()) + "\nCUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_EQ(load().source, Source::kUid);
}

TEST_F(HiddenJob, IsClosedWhereTheDirectoryCannotBeListed) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  hide_job();
  chmod(run_dir.c_str(), 0711);
  EXPECT_EQ(in_child_as(kNobody, [&] { return load().source == Source::kClosed ? 0 : 1; }), 0);
}

TEST_F(HiddenJob, IsKnownByTheOuterUidOfAUserNamespace) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  hide_job();
  write_config("7.conf", "SOFTMIG_UID=5001\nCUDA_DEVICE_MEMORY_LIMIT=8G\n");
  write_config("8.conf", "SOFTMIG_UID=5002\nCUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const auto give_away = [&] {
    for (const auto& entry : fs::directory_iterator(run_dir)) {
      ASSERT_EQ(chown(entry.path().c_str(), kNobody, kNobody), 0);
    }
    ASSERT_EQ(chown(run_dir.c_str(), kNobody, kNobody), 0);
  };
  give_away();
  user_namespace("0 5001 1\n");
  EXPECT_EQ(limit_of(load()), 8 * kGiB) << load().error;
  user_namespace("1 100000 65536\n0 5002 1\n");
  EXPECT_EQ(limit_of(load()), 4 * kGiB);
  // A namespace in a namespace can call its user what it likes: then all jobs count.
  user_namespace("0 0 1\n");
  EXPECT_EQ(limit_of(load()), 4 * kGiB);
}

TEST_F(HiddenJob, FollowsTheOtherJobsOfItsUser) {
  hide_job();
  const std::string uid = "SOFTMIG_UID=" + std::to_string(getuid()) + "\n";
  replace_config("7.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  Config config = load();
  EXPECT_FALSE(config_changed(places, config));
  replace_config("8.conf", uid + "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  unlink((run_dir + "/8.conf").c_str());
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 8 * kGiB);
  unlink((run_dir + "/7.conf").c_str());
  EXPECT_FALSE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 8 * kGiB);
  EXPECT_FALSE(config_changed(places, config));
}

using JobOfTheEnvironment = Node;

TEST_F(JobOfTheEnvironment, CountsIfItBelongsToTheUser) {
  set_proc("cgroup", "0::/\n");
  variables.set("SLURM_JOB_ID", "7");
  write_config("7.conf",
               "SOFTMIG_UID=" + std::to_string(getuid()) + "\nCUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_EQ(load().source, Source::kFile);
  write_config("7.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_EQ(load().source, Source::kFile);
}

TEST_F(JobOfTheEnvironment, IsTheComponentOfAHeterogeneousJobThatIsOnThisNode) {
  set_proc("cgroup", "0::/\n");
  variables.set("SLURM_JOB_ID", "7");
  variables.set("SLURM_HET_SIZE", "3");
  variables.set("SLURM_JOB_ID_HET_GROUP_0", "7");
  variables.set("SLURM_JOB_ID_HET_GROUP_2", "9");
  EXPECT_EQ(load().source, Source::kNone);
  write_config("9.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  EXPECT_EQ(config.source, Source::kFile);
  EXPECT_EQ(config.identity.job_id, 9u);
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  replace_config("9.conf", "CUDA_DEVICE_MEMORY_LIMIT=2G\n");
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 2 * kGiB);
  write_config("9.conf", "SOFTMIG_UID=77777\nCUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_EQ(load().source, Source::kNone) << "another user's";
  write_config("7.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_EQ(load().identity.job_id, 7u) << "the one that SLURM_JOB_ID names comes first";
}

TEST_F(JobOfTheEnvironment, OfAHeterogeneousJobDoesNotCountWhereTheCgroupNamesOne) {
  variables.set("SLURM_HET_SIZE", "2");
  variables.set("SLURM_JOB_ID_HET_GROUP_1", "9");
  write_config("9.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(JobOfTheEnvironment, OfSomebodyElseIsNotBelieved) {
  set_proc("cgroup", "0::/\n");
  variables.set("SLURM_JOB_ID", "7");
  write_config("7.conf", "SOFTMIG_UID=77777\nCUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_EQ(load().source, Source::kNone) << "root's prolog has the variable and is not in the job";
  write_config("8.conf",
               "SOFTMIG_UID=" + std::to_string(getuid()) + "\nCUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kUid);
  EXPECT_EQ(limit_of(config), 4 * kGiB);
}

using EnvironmentLimits = Node;

TEST_F(EnvironmentLimits, CountWhereThereIsNoConfig) {
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "16g");
  variables.set("CUDA_DEVICE_MEMORY_LIMIT_1", "8g");
  variables.set("CUDA_DEVICE_SM_LIMIT", "50");
  const Config config = load();
  EXPECT_EQ(config.source, Source::kEnvironment);
  EXPECT_STREQ(config.path, "");
  EXPECT_EQ(limit_of(config), 16 * kGiB);
  EXPECT_EQ(limit_of(config, 1), 8 * kGiB);
  EXPECT_EQ(policy::sm_limit(config.settings, 0), 50u);
  EXPECT_FALSE(config_changed(places, config));
  Config again = config;
  EXPECT_FALSE(reload_config(places, &again));
}

TEST_F(EnvironmentLimits, DoNotCountWhereThereIsAConfig) {
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "16g");
  variables.set("CUDA_DEVICE_SM_LIMIT", "5");
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  const Config config = load();
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  EXPECT_EQ(policy::sm_limit(config.settings, 0), 0u);
  write_config("122.conf", "rubbish\n");
  EXPECT_EQ(load().source, Source::kClosed);
}

TEST_F(EnvironmentLimits, ThatLimitNothingLeaveTheProcessPassive) {
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "0");
  variables.set("CUDA_DEVICE_SM_LIMIT", "100");
  variables.set("SOFTMIG_LOG_LEVEL", "4");
  EXPECT_EQ(load().source, Source::kNone);
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "");
  EXPECT_EQ(load().source, Source::kNone);
}

TEST_F(EnvironmentLimits, WithABadValueAreClosedAndNamed) {
  variables.set("CUDA_DEVICE_MEMORY_LIMIT_0", "12Q\n");
  Config config = load();
  EXPECT_EQ(config.source, Source::kClosed);
  EXPECT_THAT(config.error,
              HasSubstr("environment: CUDA_DEVICE_MEMORY_LIMIT_0: \"12Q\\x0a\" is not a size"));
  variables.unset("CUDA_DEVICE_MEMORY_LIMIT_0");
  variables.set("CUDA_DEVICE_SM_LIMIT", "400");
  config = load();
  EXPECT_EQ(config.source, Source::kClosed);
  EXPECT_THAT(config.error,
              HasSubstr("CUDA_DEVICE_SM_LIMIT: \"400\" is not a whole number from 0 to 100"));
}

TEST_F(EnvironmentLimits, CloseForOtherBadValuesOnlyWhereSomethingIsLimited) {
  variables.set("ACTIVE_OOM_KILLER", "maybe");
  EXPECT_EQ(load().source, Source::kNone);
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "4G");
  EXPECT_EQ(load().source, Source::kClosed);
  variables.unset("ACTIVE_OOM_KILLER");
  variables.set("SOFTMIG_LOG_LEVEL", "loud");
  EXPECT_EQ(load().source, Source::kEnvironment);
  EXPECT_EQ(load().settings.log_level, 0);
}

TEST_F(EnvironmentLimits, OfTwoWithOneNameTheFirstCounts) {
  char first[] = "CUDA_DEVICE_MEMORY_LIMIT=4G", second[] = "CUDA_DEVICE_MEMORY_LIMIT=8G";
  char* twice[] = {first, second, nullptr};
  char** before = environ;
  environ = twice;
  const Config config = load();
  environ = before;
  EXPECT_EQ(limit_of(config), 4 * kGiB);
}

TEST_F(EnvironmentLimits, SayNothingAboutWhoseJobThisIs) {
  variables.set("SOFTMIG_UID", "0");
  variables.set("CUDA_DEVICE_MEMORY_LIMIT", "4G");
  EXPECT_FALSE(load().settings.uid_set);
  variables.unset("SOFTMIG_UID");
}

TEST_F(EnvironmentLimits, MaySayWhatTheConfigDoesNotSayAboutTheLog) {
  variables.set("SOFTMIG_LOG_LEVEL", "2");
  variables.set("SOFTMIG_LOG_FILE", "/tmp/mine.log");
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  EXPECT_EQ(load().settings.log_level, 2);
  EXPECT_STREQ(load().settings.log_file, "/tmp/mine.log");
  write_config("122.conf",
               "CUDA_DEVICE_MEMORY_LIMIT=4G\nSOFTMIG_LOG_LEVEL=0\nSOFTMIG_LOG_FILE=/x\n");
  EXPECT_EQ(load().settings.log_level, 0);
  EXPECT_STREQ(load().settings.log_file, "/x");
}

using LiveChange = Node;

TEST_F(LiveChange, TakesNewLimits) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  EXPECT_FALSE(config_changed(places, config));
  replace_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 8 * kGiB);
  EXPECT_FALSE(config_changed(places, config));
}

TEST_F(LiveChange, SeesARewriteInPlaceOfTheSameSize) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  usleep(20000);  // the clock of the file system ticks
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 8 * kGiB);
}

TEST_F(LiveChange, ThatChangesNothingSaysSo) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  replace_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4096M\nSOFTMIG_LOG_LEVEL=2\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_FALSE(reload_config(places, &config));
  EXPECT_EQ(config.settings.log_level, 2);
}

TEST_F(LiveChange, ToABadConfigKeepsTheLastGoodLimits) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  for (const char* bad : {"CUDA_DEVICE_MEMORY_LIMIT=x\n", "", "rubbish\n"}) {
    replace_config("122.conf", bad);
    EXPECT_TRUE(config_changed(places, config));
    EXPECT_FALSE(reload_config(places, &config));
    EXPECT_EQ(config.source, Source::kFile);
    EXPECT_EQ(limit_of(config), 4 * kGiB);
    EXPECT_THAT(config.error, HasSubstr("122.conf"));
    EXPECT_FALSE(config_changed(places, config)) << "one look for each change";
  }
  replace_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=2G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 2 * kGiB);
  EXPECT_STREQ(config.error, "");
}

TEST_F(LiveChange, ToAFileOfSomebodyElseKeepsTheLastGoodLimits) {
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  unlink(path.c_str());
  ASSERT_EQ(symlink("/dev/null", path.c_str()), 0);
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_FALSE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  EXPECT_FALSE(config_changed(places, config));
}

TEST_F(LiveChange, ToNoConfigKeepsTheLimits) {
  const std::string path = write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  unlink(path.c_str());
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_FALSE(reload_config(places, &config));
  EXPECT_EQ(config.source, Source::kFile);
  EXPECT_EQ(limit_of(config), 4 * kGiB);
  EXPECT_FALSE(config_changed(places, config));
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(limit_of(config), 8 * kGiB);
}

TEST_F(LiveChange, OpensWhatWasClosedOnceItIsRepaired) {
  write_config("122.conf", "rubbish\n");
  Config config = load();
  EXPECT_EQ(config.source, Source::kClosed);
  replace_config("122.conf", "rubbish too\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_FALSE(reload_config(places, &config));
  EXPECT_EQ(config.source, Source::kClosed);
  EXPECT_FALSE(config_changed(places, config));
  replace_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(config.source, Source::kFile);
  EXPECT_EQ(limit_of(config), 8 * kGiB);
}

TEST_F(LiveChange, OpensWhatTheDirectoryHadClosed) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
  chmod(run_dir.c_str(), 0777);
  Config config = load();
  EXPECT_EQ(config.source, Source::kClosed);
  EXPECT_FALSE(config_changed(places, config));
  usleep(20000);
  chmod(run_dir.c_str(), 0755);
  EXPECT_TRUE(config_changed(places, config));
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_EQ(config.source, Source::kFile);
}

TEST_F(LiveChange, LiftsLimits) {
  write_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
  Config config = load();
  replace_config("122.conf", "CUDA_DEVICE_MEMORY_LIMIT=0\n");
  EXPECT_TRUE(reload_config(places, &config));
  EXPECT_FALSE(config.settings.limits_anything());
}

TEST_F(LiveChange, NeverShowsHalfAFileToReaders) {
  const char* const texts[] = {"CUDA_DEVICE_MEMORY_LIMIT=4G\nCUDA_DEVICE_SM_LIMIT=25\n",
                               "CUDA_DEVICE_MEMORY_LIMIT=8G\nCUDA_DEVICE_SM_LIMIT=50\n"};
  replace_config("122.conf", texts[0]);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 0; !stop; i++) replace_config("122.conf", texts[i % 2]);
  });
  for (int i = 0; i < 2000 && !HasFailure(); i++) {
    const Config config = load();
    EXPECT_EQ(config.source, Source::kFile) << config.error;
    EXPECT_EQ(limit_of(config) / kGiB * 25 / 4, policy::sm_limit(config.settings, 0));
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace softmig::job
