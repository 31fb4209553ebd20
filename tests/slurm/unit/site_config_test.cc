#include "cli/site_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/bytes.h"

namespace softmig::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string problem_of(const std::string& text) {
  std::vector<SiteProblem> problems;
  parse_site_config(text, "softmig.conf", &problems);
  return problems.empty() ? "" : problems.front().text;
}

TEST(Site, EveryKey) {
  std::vector<SiteProblem> problems;
  const SiteConfig site = parse_site_config(
      "# comment\r\n\n NUM_SHARDS_PER_GPU = 8 \r\nNUM_SHARDS_PER_GPU[A100-SXM4]=2\n"
      "MEMORY_RESERVE=512M\nMEMORY_RESERVE[t4]=0\nLIMIT_COMPUTE=0\nON_FAILURE=drain\n"
      "ACTIVE_OOM_KILLER=1\nSOFTMIG_LOG_LEVEL=2",
      "softmig.conf", &problems);
  EXPECT_THAT(problems, IsEmpty());
  EXPECT_EQ(site.shards.get("l40s"), 8U);
  EXPECT_EQ(site.shards.get("a100-sxm4"), 2U);
  EXPECT_TRUE(site.shards_set);
  EXPECT_EQ(site.reserve.get("l40s"), 512 * base::kMiB);
  EXPECT_EQ(site.reserve.get("T4"), 0U);
  EXPECT_FALSE(site.limit_compute);
  EXPECT_EQ(site.on_failure, OnFailure::kDrain);
  EXPECT_THAT(site.job_lines, ElementsAre("ACTIVE_OOM_KILLER=1", "SOFTMIG_LOG_LEVEL=2"));
}

TEST(Site, ProblemsNameFileLineKeyAndText) {
  EXPECT_EQ(problem_of("\nNUM_SHARDS_PER_GPU=0"),
            "softmig.conf:2: NUM_SHARDS_PER_GPU: \"0\" is not a whole number from 1 to 32");
  EXPECT_EQ(problem_of("NUM_SHARDS_PER_GPU[a,b]=4"),
            "softmig.conf:1: NUM_SHARDS_PER_GPU[a,b]: \"a,b\" is not a type of GPU");
  EXPECT_EQ(problem_of("NUM_SHARDS_PER_GPU[a100=4"),
            "softmig.conf:1: NUM_SHARDS_PER_GPU[a100: \"a100\" is not a type of GPU");
  EXPECT_EQ(problem_of("ON_FAILURE=ignore"),
            "softmig.conf:1: ON_FAILURE: \"ignore\" is not cancel or drain");
  EXPECT_EQ(problem_of("LIMIT_COMPUTE[l40s]=1"),
            "softmig.conf:1: LIMIT_COMPUTE[l40s]: does not differ by type of GPU");
  EXPECT_EQ(problem_of("SOFTMIG_LOG_LEVEL=9"),
            "softmig.conf:1: SOFTMIG_LOG_LEVEL: \"9\" is not a whole number from 0 to 4");
  EXPECT_EQ(problem_of("four shards"), "softmig.conf:1: \"four shards\" is not KEY=VALUE");
}

TEST(Site, OddTextsAreRefused) {
  for (const char* text : {"NUM_SHARDS_PER_GPU=33", "NUM_SHARDS_PER_GPU=", "NUM_SHARDS_PER_GPU=4x",
                           "NUM_SHARDS_PER_GPU=004", "NUM_SHARDS_PER_GPU[]=4", "MEMORY_RESERVE=-1",
                           "LIMIT_COMPUTE=yes", "=4", "ACTIVE_OOM_KILLER=2"}) {
    std::vector<SiteProblem> problems;
    parse_site_config(text, "", &problems);
    ASSERT_EQ(problems.size(), 1U) << text;
    EXPECT_FALSE(problems[0].warning) << text;
  }
}

TEST(Site, UnknownAndRepeatedKeysAreWarnedAbout) {
  std::vector<SiteProblem> problems;
  parse_site_config("SHARDS=4\nLIMIT_COMPUTE=1\nLIMIT_COMPUTE=0\n", "f", &problems);
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_TRUE(problems[0].warning && problems[1].warning);
  EXPECT_EQ(problems[0].text, "f:1: warning: SHARDS: no such key, it is ignored");
}

TEST(Site, NoFileIsTheDefault) {
  std::vector<SiteProblem> problems;
  EXPECT_EQ(read_site_config("/nowhere/softmig.conf", &problems).shards.get("x"), kDefaultShards);
  EXPECT_THAT(problems, IsEmpty());
  read_site_config("/", &problems);
  EXPECT_EQ(problems.size(), 1U);
}

std::string contents(const std::string& path) {
  std::ifstream file(std::string(SOFTMIG_SOURCE_DIR) + "/" + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Site, TheExampleIsTheDefault) {
  std::vector<SiteProblem> problems;
  std::string text = contents("slurm/softmig.conf.example");
  ASSERT_NE(text, "");
  const SiteConfig as_it_is = parse_site_config(text, "", &problems);
  EXPECT_EQ(as_it_is.shards.get("x"), kDefaultShards);
  // What is commented out is right too.
  for (size_t at = 0; (at = text.find("\n#", at)) != std::string::npos; at++) {
    if (text.compare(at + 2, 1, " ") != 0) text.erase(at + 1, 1);
  }
  EXPECT_EQ(parse_site_config(text, "", &problems).shards.get("h100"), 8U);
  EXPECT_THAT(problems, IsEmpty());
}

TEST(Site, AnswersToVerdictsAreGeneralOrForOne) {
  using policy::VerdictKind;
  const auto answer = [](const SiteConfig& site, VerdictKind kind) {
    return site.answer[static_cast<int>(kind)];
  };
  std::vector<SiteProblem> problems;
  EXPECT_EQ(answer(parse_site_config("", "", &problems), VerdictKind::kLedger),
            host::Answer::kReport);
  const SiteConfig site = parse_site_config(
      "ON_VERDICT[ledger]=cancel\nON_VERDICT=kill\nON_VERDICT[orphan]=report\n"
      "MEMORY_TOLERANCE=1G\nCOMPUTE_TOLERANCE=5\nMETRICS_ADDRESS=off\n",
      "", &problems);
  EXPECT_THAT(problems, IsEmpty());
  EXPECT_EQ(answer(site, VerdictKind::kLedger), host::Answer::kCancel);
  EXPECT_EQ(answer(site, VerdictKind::kOverMemory), host::Answer::kKill);
  EXPECT_EQ(answer(site, VerdictKind::kOrphan), host::Answer::kReport);
  EXPECT_EQ(site.tolerance.memory, uint64_t{1} << 30);
  EXPECT_EQ(site.tolerance.compute, 5U);
  EXPECT_EQ(site.metrics_address, "");
}

TEST(Site, WrongAnswersAreProblems) {
  for (const char* text : {"ON_VERDICT=shoot", "ON_VERDICT[nothing]=kill", "COMPUTE_TOLERANCE=101",
                           "MEMORY_TOLERANCE=much", "METRICS_ADDRESS=9799",
                           "METRICS_ADDRESS=localhost:0", "METRICS_ADDRESS=:9799"}) {
    std::vector<SiteProblem> problems;
    parse_site_config(text, "", &problems);
    ASSERT_EQ(problems.size(), 1U) << text;
    EXPECT_FALSE(problems[0].warning) << text;
  }
}

TEST(Site, TheDocsHaveEveryKey) {
  const std::string docs = contents("docs/slurm.md");
  for (const SiteKey& key : site_keys()) {
    const std::string row = std::string("| `") + key.name + (key.by_type ? "[type]" : "") + "` | " +
                            key.format + " | " + key.default_text + " | " + key.help + " |";
    EXPECT_NE(docs.find(row), std::string::npos) << row;
  }
}

}  // namespace
}  // namespace softmig::cli
