#include "cli/job_record.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "job/region.h"

namespace softmig::cli {
namespace {

JobRecord sample() {
  JobRecord record;
  record.name = "4711";
  record.job_id = 4711;
  record.uid = 5001;
  record.node = "n1";
  record.begin_ns = 1'000'000'000;
  record.end_ns = 5'000'000'000;
  record.ended = true;
  DeviceRecord device;
  device.name = "NVIDIA L40S";
  device.uuid = "GPU-0";
  device.memory_limit = 12;
  device.sm_limit = 25;
  device.shards = 1;
  device.of = 4;
  device.peak = 7;
  device.refusals = 2;
  device.compute = {3, 4, 5, 6};
  record.devices.push_back(device);
  return record;
}

TEST(JobRecord, ComesBackAsItWas) {
  const auto back = parse_record(to_json(sample()).dump());
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, sample());
  EXPECT_EQ(back->length_ns(), 4'000'000'000u);
}

TEST(JobRecord, WithoutUser) {
  JobRecord record = sample();
  record.uid.reset();
  const auto back = parse_record(to_json(record).dump());
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, record);
}

TEST(JobRecord, WhatIsNoneIsRefused) {
  EXPECT_FALSE(parse_record(""));
  EXPECT_FALSE(parse_record("null"));
  EXPECT_FALSE(parse_record("[]"));
  nlohmann::ordered_json json = to_json(sample());
  json["format"] = 2;
  EXPECT_FALSE(parse_record(json.dump()));
  // Any field that is missing or of another kind.
  const nlohmann::ordered_json whole = to_json(sample());
  for (const auto& [key, value] : whole.items()) {
    nlohmann::ordered_json broken = whole;
    broken.erase(key);
    EXPECT_FALSE(parse_record(broken.dump())) << key;
    broken[key] = nlohmann::ordered_json::object({{"a", 1}});
    EXPECT_FALSE(parse_record(broken.dump())) << key;
  }
}

// The file is the user's, and root may ask for the report.
TEST(JobRecord, WhatNoSliceCanBeIsRefused) {
  const auto with = [](uint64_t shards, uint64_t of, uint64_t sm_limit) {
    JobRecord record = sample();
    record.devices[0].shards = shards;
    record.devices[0].of = of;
    record.devices[0].sm_limit = sm_limit;
    return parse_record(to_json(record).dump()).has_value();
  };
  EXPECT_TRUE(with(0, 0, 0));
  EXPECT_TRUE(with(32, 32, 100));
  EXPECT_FALSE(with(1, 18446744073709551557ULL, 25));
  EXPECT_FALSE(with(UINT64_MAX, UINT64_MAX, 0));
  EXPECT_FALSE(with(5, 4, 25));
  EXPECT_FALSE(with(1, 4, 101));
}

TEST(JobRecord, TextIsMadePrintable) {
  JobRecord record = sample();
  record.devices[0].name = "\033[31mred";
  const auto back = parse_record(to_json(record).dump());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->devices[0].name, "\\x1b[31mred");
}

TEST(JobRecord, TakesTheShardsFromTheSlots) {
  SeenSlice slice;
  slice.slots = "0,2,3/8";
  slice.devices.emplace_back();
  const JobRecord record = make_record(slice, false);
  ASSERT_EQ(record.devices.size(), 1u);
  EXPECT_EQ(record.devices[0].shards, 3u);
  EXPECT_EQ(record.devices[0].of, 8u);
  EXPECT_FALSE(record.ended);
}

// A node's folders, in a folder of their own.
class KeepRecord : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/softmig-records.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    home_ = name;
    ASSERT_EQ(mkdir(run().c_str(), 0755), 0);
    std::ofstream(run() + "/4711.conf")
        << "SOFTMIG_UID=" << getuid() << "\nCUDA_DEVICE_MEMORY_LIMIT=12G\nSOFTMIG_SLOTS=1/4\n";
    chmod((run() + "/4711.conf").c_str(), 0644);
    ASSERT_EQ(job::create_region_file((run() + "/4711.region").c_str(), getuid(), getgid()), 0);
  }
  void TearDown() override { std::filesystem::remove_all(home_); }

  std::string run() const { return home_ + "/run"; }
  std::string records() const { return home_ + "/jobs"; }
  size_t count() const {
    const std::filesystem::directory_iterator files(records());
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }

 private:
  std::string home_;
};

TEST_F(KeepRecord, CanBeReadBack) {
  keep_record(4711, records(), run());
  const auto record = read_record("4711", records());
  ASSERT_TRUE(record);
  EXPECT_EQ(record->job_id, 4711u);
  EXPECT_EQ(record->uid, getuid());
  EXPECT_TRUE(record->ended);
  EXPECT_GT(record->begin_ns, 0u);
  ASSERT_EQ(record->devices.size(), 1u);
  EXPECT_EQ(record->devices[0].memory_limit, uint64_t{12} << 30);
  EXPECT_EQ(record->devices[0].of, 4u);
  EXPECT_FALSE(read_record("4712", records()));
}

TEST_F(KeepRecord, ASecondEndReplacesTheFirst) {
  keep_record(4711, records(), run());
  keep_record(4711, records(), run());
  EXPECT_EQ(count(), 1u);
}

TEST_F(KeepRecord, NoMoreThanTheNewest) {
  ASSERT_EQ(mkdir(records().c_str(), 0755), 0);
  for (size_t i = 0; i < kMostRecords + 10; i++) {
    std::ofstream(records() + "/" + std::to_string(i) + ".json") << "{}";
  }
  sleep(1);  // the time of a change is in seconds
  keep_record(4711, records(), run());
  EXPECT_EQ(count(), kMostRecords);
  EXPECT_TRUE(read_record("4711", records()));
}

TEST_F(KeepRecord, WithoutConfigOrRegionThereIsNone) {
  keep_record(4712, records(), run());
  unlink((run() + "/4711.region").c_str());
  keep_record(4711, records(), run());
  EXPECT_FALSE(std::filesystem::exists(records()));
}

TEST(ConfigNames, OfJobs) {
  EXPECT_EQ(job_of_config_name("4711.conf"), "4711");
  EXPECT_EQ(job_of_config_name("4711_3.conf"), "4711_3");
  for (const char* name : {"softmig.conf", "4711.region", "4711.conf.new.1", ".conf", "_3.conf",
                           "47_.conf", "47_x.conf", "cgroup_ns", ""}) {
    EXPECT_EQ(job_of_config_name(name), "") << name;
  }
}

}  // namespace
}  // namespace softmig::cli
