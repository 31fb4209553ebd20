#include "policy/settings.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "base/bytes.h"

namespace softmig::policy {
namespace {

using base::kGiB;

constexpr const char* kGpuA = "GPU-01234567-89ab-cdef-0123-456789abcdef";
constexpr const char* kGpuB = "MIG-FFFFFFFF-ffff-ffff-ffff-ffffffffffff";

Settings parsed(std::initializer_list<const char*> lines) {
  Settings settings;
  for (const char* line : lines) EXPECT_EQ(parse_line(line, &settings), ParseStatus::kOk) << line;
  return settings;
}

ParseStatus status_of(std::string_view line) {
  Settings settings, untouched;
  const ParseStatus status = parse_line(line, &settings);
  EXPECT_TRUE(status == ParseStatus::kOk || settings == untouched) << line;
  return status;
}

TEST(ConfigLine, IsReadWithBlanksCommentsAndForeignLineEnds) {
  EXPECT_EQ(parsed({"CUDA_DEVICE_MEMORY_LIMIT=12288M"}).memory.general, 12 * kGiB);
  EXPECT_EQ(parsed({"CUDA_DEVICE_MEMORY_LIMIT=12288M\n"}).memory.general, 12 * kGiB);
  EXPECT_EQ(parsed({"CUDA_DEVICE_MEMORY_LIMIT=12288M\r\n"}).memory.general, 12 * kGiB);
  EXPECT_EQ(parsed({"  CUDA_DEVICE_MEMORY_LIMIT \t= 12 GiB  "}).memory.general, 12 * kGiB);
  EXPECT_FALSE(
      parsed({"", "   ", "\r\n", "# CUDA_DEVICE_MEMORY_LIMIT=1", "  #"}).limits_anything());
}

TEST(ConfigLine, IsRefusedWhereItIsNotKeyAndValue) {
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT"), ParseStatus::kBadSyntax);
  EXPECT_EQ(status_of("=12G"), ParseStatus::kBadSyntax);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_-1=5G"), ParseStatus::kBadSyntax);
  EXPECT_EQ(status_of("export CUDA_DEVICE_MEMORY_LIMIT=12G"), ParseStatus::kBadSyntax);
  EXPECT_EQ(status_of("\xef\xbb\xbf"
                      "CUDA_DEVICE_MEMORY_LIMIT=12G"),
            ParseStatus::kBadSyntax);
  EXPECT_EQ(status_of(std::string_view("\0=1", 3)), ParseStatus::kBadSyntax);
}

TEST(ConfigLine, OfAnUnknownKeyIsToldApartFromABadValue) {
  EXPECT_EQ(status_of("SOMETHING_NEW=5"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("cuda_device_memory_limit=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_x=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_00=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_1a=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT2=5G"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("SOFTMIG_UID_0=5"), ParseStatus::kUnknownKey);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT="), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT=12QB"), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT=12G # a quarter"), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("CUDA_DEVICE_MEMORY_LIMIT_16=5G"), ParseStatus::kBadDevice);
  EXPECT_EQ(status_of("CUDA_DEVICE_SM_LIMIT_4294967296=5"), ParseStatus::kBadDevice);
}

TEST(MemoryLimit, OfOneDeviceAloneLimits) {
  const Settings settings = parsed({"CUDA_DEVICE_MEMORY_LIMIT_0=4G"});
  EXPECT_TRUE(settings.limits_anything());
  EXPECT_EQ(memory_limit(settings, 0), 4 * kGiB);
  EXPECT_EQ(memory_limit(settings, 1), 0u);
}

TEST(MemoryLimit, OfOneDeviceStandsBeforeTheGeneralOne) {
  const Settings settings =
      parsed({"CUDA_DEVICE_MEMORY_LIMIT_1=2G", "CUDA_DEVICE_MEMORY_LIMIT=4G"});
  EXPECT_EQ(memory_limit(settings, 0), 4 * kGiB);
  EXPECT_EQ(memory_limit(settings, 1), 2 * kGiB);
  EXPECT_EQ(memory_limit(settings, 15), 4 * kGiB);
}

TEST(MemoryLimit, OfZeroLiftsTheGeneralOneForThatDevice) {
  const Settings settings = parsed({"CUDA_DEVICE_MEMORY_LIMIT=4G", "CUDA_DEVICE_MEMORY_LIMIT_0=0"});
  EXPECT_EQ(memory_limit(settings, 0), 0u);
  EXPECT_EQ(memory_limit(settings, 1), 4 * kGiB);
  EXPECT_TRUE(settings.limits_anything());
}

TEST(MemoryLimit, OfAnUnknownDeviceIsTheStrictest) {
  const Settings settings = parsed({"CUDA_DEVICE_MEMORY_LIMIT=4G", "CUDA_DEVICE_MEMORY_LIMIT_0=0",
                                    "CUDA_DEVICE_MEMORY_LIMIT_3=1G"});
  EXPECT_EQ(memory_limit(settings, -1), kGiB);
}

TEST(SmLimit, OfZeroOrAHundredLimitsNothingButIsKept) {
  for (const char* line : {"CUDA_DEVICE_SM_LIMIT=0", "CUDA_DEVICE_SM_LIMIT=100"}) {
    const Settings settings = parsed({line});
    EXPECT_FALSE(settings.limits_anything()) << line;
    EXPECT_EQ(sm_limit(settings, 0), 0u) << line;
    EXPECT_EQ(sm_limit(settings, -1), 0u) << line;
  }
  EXPECT_EQ(parsed({"CUDA_DEVICE_SM_LIMIT=100"}).sm.general, 100u);
  EXPECT_EQ(sm_limit(parsed({"CUDA_DEVICE_SM_LIMIT=100", "CUDA_DEVICE_SM_LIMIT_2=25"}), -1), 25u);
  EXPECT_TRUE(parsed({"CUDA_DEVICE_SM_LIMIT=99"}).limits_anything());
}

TEST(SmLimit, IsAWholeNumberUpToAHundred) {
  EXPECT_EQ(sm_limit(parsed({"CUDA_DEVICE_SM_LIMIT= 25 "}), 0), 25u);
  for (const char* value : {"101", "-1", "25%", "2.5", "", "0x10", "1e1", "99999999999999999999"}) {
    EXPECT_EQ(status_of(std::string("CUDA_DEVICE_SM_LIMIT=") + value), ParseStatus::kBadValue)
        << value;
  }
}

TEST(OomKiller, IsOffUnlessItIsOne) {
  EXPECT_FALSE(parsed({"ACTIVE_OOM_KILLER=0"}).oom_killer);
  EXPECT_TRUE(parsed({"ACTIVE_OOM_KILLER=1"}).oom_killer);
  EXPECT_EQ(status_of("ACTIVE_OOM_KILLER=yes"), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("ACTIVE_OOM_KILLER=2"), ParseStatus::kBadValue);
}

TEST(LogSettings, TakeALevelAndAnAbsolutePath) {
  const Settings settings = parsed({"SOFTMIG_LOG_LEVEL=4", "SOFTMIG_LOG_FILE=/var/log/x y.log"});
  EXPECT_EQ(settings.log_level, 4);
  EXPECT_STREQ(settings.log_file, "/var/log/x y.log");
  EXPECT_EQ(status_of("SOFTMIG_LOG_LEVEL=5"), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("SOFTMIG_LOG_FILE=x.log"), ParseStatus::kBadValue);
  EXPECT_EQ(status_of("SOFTMIG_LOG_FILE=/" + std::string(254, 'x')), ParseStatus::kOk);
  EXPECT_EQ(status_of("SOFTMIG_LOG_FILE=/" + std::string(255, 'x')), ParseStatus::kBadValue);
}

TEST(LogSettings, ForgetALongerPathWhenAShorterOneFollows) {
  Settings longer = parsed({"SOFTMIG_LOG_FILE=/a/long/path", "SOFTMIG_LOG_FILE=/b"});
  const Settings shorter = parsed({"SOFTMIG_LOG_FILE=/b"});
  EXPECT_EQ(memcmp(longer.log_file, shorter.log_file, sizeof longer.log_file), 0);
}

TEST(Slots, AreAMaskOfACount) {
  const Settings settings = parsed({"SOFTMIG_SLOTS=0,2/4"});
  EXPECT_EQ(settings.slot_mask_lo, 0b101u);
  EXPECT_EQ(settings.slot_count, 4u);
  EXPECT_EQ(parsed({"SOFTMIG_SLOTS= 31 , 0 / 32 "}).slot_mask_lo, 0x80000001u);
  for (const char* value :
       {"", "/4", "0", "0/", "4/4", "0/0", "0/33", "0,/4", "0,0/4", "0-2/4", "0/4/4"}) {
    EXPECT_EQ(status_of(std::string("SOFTMIG_SLOTS=") + value), ParseStatus::kBadValue) << value;
  }
}

TEST(Gpus, AreFoundByTheirUuid) {
  const std::string line = std::string("SOFTMIG_GPUS=") + kGpuA + " , " + kGpuB;
  const Settings settings = parsed({line.c_str()});
  ASSERT_EQ(settings.gpu_count, 2);
  Uuid a, b, other = {};
  ASSERT_TRUE(parse_uuid(kGpuA, &a));
  ASSERT_TRUE(parse_uuid(kGpuB, &b));
  EXPECT_EQ(a.byte[0], 0x01);
  EXPECT_EQ(a.byte[15], 0xef);
  EXPECT_EQ(device_index(settings, a, 7), 0);
  EXPECT_EQ(device_index(settings, b, 7), 1);
  EXPECT_EQ(device_index(settings, other, 7), 7);
  EXPECT_EQ(device_index(settings, other, -1), -1);
}

TEST(Gpus, MustBeWellFormedDifferentAndFew) {
  const auto gpus = [](const std::string& list) { return status_of("SOFTMIG_GPUS=" + list); };
  const std::string a = kGpuA;
  EXPECT_EQ(gpus(""), ParseStatus::kBadValue);
  EXPECT_EQ(gpus("0,1"), ParseStatus::kBadValue);
  EXPECT_EQ(gpus(a + ","), ParseStatus::kBadValue);
  EXPECT_EQ(gpus(a + "," + a), ParseStatus::kBadValue);
  EXPECT_EQ(gpus(a.substr(4)), ParseStatus::kBadValue);
  EXPECT_EQ(gpus(a + "0"), ParseStatus::kBadValue);
  EXPECT_EQ(gpus("GPU-01234567-89ab-cdef-0123_456789abcdef"), ParseStatus::kBadValue);
  EXPECT_EQ(gpus("GPU-0123456g-89ab-cdef-0123-456789abcdef"), ParseStatus::kBadValue);
  std::string list;
  for (int i = 0; i < 17; i++) {
    char name[64];
    snprintf(name, sizeof name, "%sGPU-%08x-0000-0000-0000-000000000000", i ? "," : "", i);
    list += name;
    EXPECT_EQ(gpus(list), i < 16 ? ParseStatus::kOk : ParseStatus::kBadValue) << i;
  }
}

TEST(Uid, IsANumberThatAUserCanHave) {
  EXPECT_EQ(parsed({"SOFTMIG_UID=5001"}).uid, 5001u);
  EXPECT_TRUE(parsed({"SOFTMIG_UID=0"}).uid_set);
  for (const char* value : {"4294967295", "-1", "root", "5001 5002", ""}) {
    EXPECT_EQ(status_of(std::string("SOFTMIG_UID=") + value), ParseStatus::kBadValue) << value;
  }
}

TEST(ContextCost, IsASize) {
  EXPECT_EQ(parsed({"SOFTMIG_CONTEXT_COST=550M"}).context_cost, 550 * base::kMiB);
  EXPECT_EQ(status_of("SOFTMIG_CONTEXT_COST=x"), ParseStatus::kBadValue);
}

TEST(StrictestOfTwoJobs, IsTheSmallestOfEachAndGeneral) {
  Settings a = parsed({"CUDA_DEVICE_MEMORY_LIMIT=8G", "CUDA_DEVICE_MEMORY_LIMIT_1=2G",
                       "CUDA_DEVICE_SM_LIMIT=50", "SOFTMIG_CONTEXT_COST=1M"});
  const Settings b = parsed({"CUDA_DEVICE_MEMORY_LIMIT=4G", "SOFTMIG_CONTEXT_COST=2M"});
  merge_strictest(b, &a);
  for (int device = -1; device < 4; device++) {
    EXPECT_EQ(memory_limit(a, device), 2 * kGiB) << device;
    EXPECT_EQ(sm_limit(a, device), 50u) << device;
  }
  EXPECT_EQ(a.context_cost, 2 * base::kMiB);
}

TEST(SameLimits, SeesEveryLimitAndNotTheLog) {
  const Settings a = parsed({"CUDA_DEVICE_MEMORY_LIMIT=8G"});
  EXPECT_TRUE(same_limits(a, parsed({"CUDA_DEVICE_MEMORY_LIMIT=8192M", "SOFTMIG_LOG_LEVEL=2"})));
  for (const char* line :
       {"CUDA_DEVICE_MEMORY_LIMIT=4G", "CUDA_DEVICE_MEMORY_LIMIT_3=4G", "CUDA_DEVICE_SM_LIMIT=5",
        "ACTIVE_OOM_KILLER=1", "SOFTMIG_SLOTS=0/2", "SOFTMIG_CONTEXT_COST=1M",
        "SOFTMIG_GPUS=GPU-01234567-89ab-cdef-0123-456789abcdef"}) {
    EXPECT_FALSE(same_limits(a, parsed({"CUDA_DEVICE_MEMORY_LIMIT=8G", line}))) << line;
  }
}

TEST(Share, RuleComesFromTheKeys) {
  const Settings settings =
      parsed({"CUDA_DEVICE_SM_LIMIT=25", "CUDA_DEVICE_SM_LIMIT_1=100", "SOFTMIG_SLOTS=1/4",
              "SOFTMIG_FRAME_MS=80", "SOFTMIG_SHARE_MODE=strict"});
  const ShareRule rule{.percent = 25,
                       .mode = ShareMode::kStrict,
                       .slot_mask = 2,
                       .slot_count = 4,
                       .frame_ns = 80'000'000};
  EXPECT_EQ(share_rule(settings, 0), rule);
  EXPECT_EQ(share_rule(settings, 1).percent, 0u);
  EXPECT_EQ(share_rule({}, 0).frame_ns, kDefaultFrameNs);
  for (const char* bad : {"SOFTMIG_FRAME_MS=4", "SOFTMIG_FRAME_MS=1001",
                          "SOFTMIG_FRAME_MS=", "SOFTMIG_SHARE_MODE=Budget",
                          "SOFTMIG_SHARE_MODE=", "SOFTMIG_BOARD=board", "SOFTMIG_BOARD="}) {
    EXPECT_EQ(status_of(bad), ParseStatus::kBadValue) << bad;
  }
}

TEST(ConfigKeys, AllHaveTheirWordsAndReadTheirOwnDefaults) {
  EXPECT_EQ(config_keys().size(), 12u);
  for (const ConfigKey& key : config_keys()) {
    EXPECT_EQ(find_key(key.name), &key);
    EXPECT_EQ(find_key(std::string(key.name) + "_3"),
              key.devices == Devices::kPerDevice ? &key : nullptr);
    EXPECT_NE(std::string(key.help), "");
    EXPECT_NE(std::string(key.format), "");
  }
}

TEST(ParseLine, SurvivesAndUndoesRandomLines) {
  std::mt19937 random(3);
  const char alphabet[] = "CUDA_DEVICEMORYLIT=0123456789.GMKiB \t\r\n#,/-GPU\0\xff";
  for (int i = 0; i < 50000; i++) {
    std::string line;
    if (i % 2 == 0) line = config_keys()[random() % config_keys().size()].name;
    for (int n = static_cast<int>(random() % 40); n > 0; n--) {
      line += alphabet[random() % sizeof alphabet];
    }
    status_of(line);
  }
}

}  // namespace
}  // namespace softmig::policy
