#include "cli/job_record.h"

#include <gtest/gtest.h>

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
