// docs/configuration.md has the tables of the code. Where a test fails it prints the table that
// must stand there.
#include <gtest/gtest.h>

#include <string>

#include "policy/failure.h"
#include "policy/settings.h"
#include "scratch.h"

namespace softmig {
namespace {

std::string page() { return testing::contents_of(SOFTMIG_SOURCE_DIR "/docs/configuration.md"); }

std::string keys_table() {
  std::string table = "| key | value | without it | meaning |\n|---|---|---|---|\n";
  for (const policy::ConfigKey& key : policy::config_keys()) {
    table += std::string("| `") + key.name +
             (key.devices == policy::Devices::kPerDevice ? "[_n]" : "") + "` | " + key.format +
             " | " + key.default_text + " | " + key.help +
             (key.places == policy::KeyPlaces::kFileOnly ? " (config files only)" : "") + " |\n";
  }
  return table;
}

std::string failure_table() {
  std::string table = "| what is wrong | what happens |\n|---|---|\n";
  for (const policy::Failure& row : policy::kFailures) {
    table += std::string("| ") + row.what + " | " + row.answer + " |\n";
  }
  return table;
}

TEST(ConfigurationPage, HasTheTableOfKeys) {
  EXPECT_NE(page().find(keys_table()), std::string::npos) << keys_table();
}

TEST(ConfigurationPage, HasTheFailureTable) {
  EXPECT_NE(page().find(failure_table()), std::string::npos) << failure_table();
}

}  // namespace
}  // namespace softmig
