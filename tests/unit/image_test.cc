#include "policy/image.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace softmig::policy {
namespace {

uint64_t globals_in_text(const std::string& text) {
  return globals_in({reinterpret_cast<const uint8_t*>(text.c_str()), text.size()});
}

TEST(ImageTest, PtxVariablesAreAddedUp) {
  EXPECT_EQ(globals_in_text(".version 7.0\n.target sm_70\n.global .align 4 .b8 a[100];\n"
                            ".visible .global .f32 x;\n.visible .entry k() { ret; }"),
            104u);
}

TEST(ImageTest, FiveGibibytesAreSeen) {
  EXPECT_EQ(globals_in_text(".visible .global .align 1 .b8 big[5368709120];"), 5368709120u);
}

TEST(ImageTest, SeveralExtentsVectorsListsAndInitialisersCount) {
  EXPECT_EQ(globals_in_text(".global .u64 m[4][0x10];"), 512u);
  EXPECT_EQ(globals_in_text(".global .v4 .f32 v[2];"), 32u);
  EXPECT_EQ(globals_in_text(".global .u32 a, b[2], c;"), 16u);
  EXPECT_EQ(globals_in_text(".global .u32 t[3] = {1, 2, 3}; .global .u8 z;"), 13u);
}

TEST(ImageTest, DirectivesWrittenAsOneWord) {
  EXPECT_EQ(globals_in_text(".global .align 16 .v4.f32 v[1024];"), 16384u);
  EXPECT_EQ(globals_in_text(".visible.global.align 4.b8 a[100];"), 100u);
  EXPECT_EQ(globals_in_text(".func f() { ld.global.v4.f32 {a, b, c, d}, [x]; }"), 0u);
}

TEST(ImageTest, ExtentsAreConstantExpressions) {
  EXPECT_EQ(globals_in_text(".global .b8 a[5*1024*1024];"), 5u << 20);
  EXPECT_EQ(globals_in_text(".global .b8 a[(2 + 3) << 20][3];"), 15u << 20);
  EXPECT_EQ(globals_in_text(".global .b8 a[2+3*4-6/2%2];"), 13u);
  EXPECT_EQ(globals_in_text(".global .b8 a[0x10|0x01], b[7&~1], c[1^3], d[64>>2];"), 41u);
  EXPECT_EQ(globals_in_text(".global .b8 a[(.u64)12U], b[010], c[0b101];"), 25u);
  EXPECT_EQ(globals_in_text(".global .b8 a[20-10-5];"), 5u);
}

TEST(ImageTest, AnExtentThatIsNotUnderstoodMayBeAnything) {
  for (const char* extent : {"N", "1<2", "1/0", "4 5", "1<<64", "5*", "2>1?8:4", "-1"}) {
    EXPECT_GT(globals_in_text(std::string(".global .b8 a[") + extent + "];"), UINT64_MAX / 2)
        << extent;
  }
  const std::string nested(100'000, '(');
  EXPECT_EQ(globals_in_text(".global .b8 a[" + nested + "1];"), UINT64_MAX);
  EXPECT_EQ(globals_in_text(".global .b8 a[" + std::string(100'000, '-') + "1];"), UINT64_MAX);
  EXPECT_EQ(globals_in_text(".global .b8 a[99999999999999999999];"), UINT64_MAX);
}

TEST(ImageTest, TypesHaveTheirSize) {
  for (const auto& [type, bytes] : {std::pair{"b8", 1u},
                                    {"s16", 2u},
                                    {"u64", 8u},
                                    std::pair{"f16", 2u},
                                    {"bf16", 2u},
                                    {"tf32", 4u},
                                    std::pair{"f16x2", 4u},
                                    {"bf16x2", 4u},
                                    {"b128", 16u},
                                    std::pair{"e4m3x4", 16u},
                                    {"texref", 16u},
                                    {"b4", 16u}}) {
    EXPECT_EQ(globals_in_text(std::string(".global .") + type + " a[10];"), 10 * bytes) << type;
  }
  EXPECT_EQ(globals_in_text(".global .attribute(.managed) .align 4 .b32 m;"), 4u);
}

TEST(ImageTest, WhereNoExtentIsGivenTheInitialiserSaysIt) {
  EXPECT_EQ(globals_in_text(".global .u32 t[] = {1, 2, 3};"), 12u);
  EXPECT_EQ(globals_in_text(".global .u32 t[][2] = {{1, 2}, {3}}, u = 5, v[2] = {1, 2};"), 28u);
}

TEST(ImageTest, CommentsAndWhatIsNoGlobalDoNotCount) {
  EXPECT_EQ(globals_in_text("// .global .b8 a[100];\n/* .global .b8 b[100]; */ .const .b8 c[9];"),
            0u);
}

TEST(ImageTest, WhatStandsBeforeAVariableDoesNotHideIt) {
  EXPECT_EQ(globals_in_text(".const .b8 t[4] = {1, 2, 3, 4};\n.global .b8 big[5368709120];"),
            5368709120u);
  EXPECT_EQ(globals_in_text(".func f() { ld.global.u32 r, [a]; ret; } .global .b8 big[100];"),
            100u);
  EXPECT_EQ(globals_in_text(".file 1 \"/a{b/*c//d;.global .b8 x[7];\"\n.global .b8 big[100];"),
            100u);
}

TEST(ImageTest, TextsCutAnywhereAreReadWithoutHarm) {
  const std::string text = ".global .align 4 .b8 a[0xffffffffffffffff][99]; .global .f32 x = 1;";
  for (size_t n = 0; n <= text.size(); n++) globals_in_text(text.substr(0, n));
  EXPECT_EQ(globals_in_text(text), UINT64_MAX);
}

std::vector<uint8_t> make_elf(uint64_t global_bytes) {
  std::vector<uint8_t> elf(64 + 3 * 64 + 32);
  auto put = [&](size_t at, auto value) { std::memcpy(&elf[at], &value, sizeof value); };
  std::memcpy(elf.data(),
              "\x7f"
              "ELF",
              4);
  put(4, uint8_t{2});
  put(0x12, uint16_t{190});
  const uint64_t names = 64 + 3 * 64;
  put(0x28, uint64_t{64});
  put(0x3c, uint16_t{3});
  put(0x3e, uint16_t{1});
  put(64 + 64 + 0x18, names);
  put(64 + 2 * 64, uint32_t{1});
  put(64 + 2 * 64 + 0x20, global_bytes);
  std::memcpy(&elf[names + 1], ".nv.global", 11);
  return elf;
}

TEST(ImageTest, ZeroedSectionsOfACubinCount) { EXPECT_EQ(globals_in(make_elf(1 << 30)), 1u << 30); }

TEST(ImageTest, ASymbolBeyondTheEndOfItsSectionCounts) {
  std::vector<uint8_t> elf = make_elf(1 << 30);
  auto put = [&](size_t at, auto value) { std::memcpy(&elf[at], &value, sizeof value); };
  const size_t symbol = elf.size();
  elf.resize(symbol + 24);
  put(64 + 4, uint32_t{2});  // the first section becomes the symbol table
  put(64 + 0x18, uint64_t{symbol});
  put(64 + 0x20, uint64_t{24});
  put(symbol + 6, uint16_t{2});
  put(symbol + 16, uint64_t{5} << 30);
  EXPECT_EQ(globals_in(elf), uint64_t{5} << 30);
}

// What is no cubin states sizes of its own, which may lie beyond the memory that holds it.
TEST(ImageTest, OtherElfFilesAreNotReadBeyondTheirHeader) {
  for (const size_t field : {size_t{4}, size_t{0x12}}) {
    std::vector<uint8_t> elf = make_elf(1 << 30);
    elf[field] = 1;
    const uint64_t far = uint64_t{1} << 40;
    std::memcpy(&elf[0x28], &far, sizeof far);
    EXPECT_EQ(image_size(elf.data()), 64u);
    EXPECT_EQ(globals_in(elf), 0u);
  }
}

TEST(ImageTest, OfAFatBinaryTheLargestPartCounts) {
  std::vector<uint8_t> fat(16);
  auto put = [&](size_t at, auto value) { std::memcpy(&fat[at], &value, sizeof value); };
  put(0, uint32_t{0xba55ed50});
  put(6, uint16_t{16});
  for (uint64_t bytes : {1000u, 5000u, 2000u}) {
    const std::vector<uint8_t> elf = make_elf(bytes);
    const size_t at = fat.size();
    fat.resize(at + 64 + elf.size());
    put(at, uint16_t{2});
    put(at + 4, uint32_t{64});
    put(at + 8, uint64_t{elf.size()});
    std::memcpy(&fat[at + 64], elf.data(), elf.size());
  }
  put(8, uint64_t{fat.size() - 16});
  EXPECT_EQ(globals_in(fat), 5000u);
  EXPECT_EQ(image_size(fat.data()), fat.size());
  for (size_t n = 0; n < fat.size(); n++) globals_in({fat.data(), n});
}

}  // namespace
}  // namespace softmig::policy
