// Modules and libraries: their variables' memory, and when it is taken.
#include <elf.h>

#include <cstring>
#include <string>
#include <vector>

#include "driver/image.h"
#include "harness.h"

namespace softmig::sim_test {
namespace {

class ModuleSizeTest : public ContextTest, public testing::WithParamInterface<uint64_t> {
 protected:
  double taken() const {
    return GetParam() <= kMiB ? 2
                              : static_cast<double>((GetParam() + 2 * kMiB - 1) / (2 * kMiB) * 2);
  }
};

TEST_P(ModuleSizeTest, AModuleTakesItWhenLoaded) {
  const std::string image = ptx_with_array(GetParam());
  const Marked mark;
  CUmodule module = nullptr;
  CUdeviceptr address = 0;
  size_t bytes = 0;
  ASSERT_CUDA(cuModuleLoadData(&module, image.c_str()));
  EXPECT_EQ(mark.used(), taken());
  EXPECT_EQ(mark.listed(), taken());
  ASSERT_CUDA(cuModuleGetGlobal_v2(&address, &bytes, module, "big"));
  EXPECT_EQ(bytes, GetParam());
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE) << "goes with the module only";
  EXPECT_EQ(cuModuleGetGlobal_v2(&address, &bytes, module, "not_this"), CUDA_ERROR_NOT_FOUND);
  ASSERT_CUDA(cuModuleUnload(module));
  EXPECT_EQ(mark.used(), 0);
}

TEST_P(ModuleSizeTest, ALibraryTakesItWhenSomethingInItIsUsed) {
  const std::string image = ptx_with_array(GetParam());
  const Marked mark;
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  CUfunction function = nullptr;
  ASSERT_CUDA(cuLibraryLoadData(&library, image.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
  EXPECT_EQ(mark.used(), 0);
  ASSERT_CUDA(cuLibraryGetKernel(&kernel, library, "k"));
  EXPECT_EQ(mark.used(), 0);
  ASSERT_CUDA(cuKernelGetFunction(&function, kernel));
  EXPECT_EQ(mark.used(), taken());
  CUdeviceptr address = 0;
  size_t bytes = 0;
  ASSERT_CUDA(cuLibraryGetGlobal(&address, &bytes, library, "big"));
  EXPECT_EQ(bytes, GetParam());
  EXPECT_EQ(mark.used(), taken());
  ASSERT_CUDA(cuLibraryUnload(library));
  EXPECT_EQ(mark.used(), 0);
}

INSTANTIATE_TEST_SUITE_P(Measured, ModuleSizeTest, testing::Values(4096, 3 * kMiB, kGiB),
                         [](const auto& info) { return std::to_string(info.param) + "Bytes"; });

using ModuleTest = ContextTest;

TEST_F(ModuleTest, AllKindsOfVariablesAreFound) {
  const std::string text =
      ".version 7.0\n.target sm_70\n.address_size 64\n"
      "/* .global .u32 hidden; */ .const .align 4 .f32 table[10];\n"
      ".extern .global .u32 elsewhere;\n"
      ".global .align 8 .u64 one;\n"
      ".visible .global .f32 grid[3][0x10];\n"
      ".global .v4 .f32 wide[2] = {1,2,3,4,5,6,7,8};\n"
      ".global .attribute(.managed) .align 4 .b8 both[100];\n"
      ".global .u16 a, b[5];\n"
      ".visible .entry first(.param .u64 .ptr .global x, .param .u32 y) { .shared .b8 tmp[1000]; "
      "ret; }\n"
      ".entry second() { ret; }\n"
      ".func (.param .b32 r) helper (.param .b32 x) { ret; }\n";
  softmig::sim::Image image;
  ASSERT_CUDA(softmig::sim::read_image(text.c_str(), &image));
  std::vector<std::pair<std::string, uint64_t>> found;
  for (const auto& variable : image.variables) found.emplace_back(variable.name, variable.bytes);
  const std::vector<std::pair<std::string, uint64_t>> expected = {
      {"one", 8}, {"grid", 192}, {"wide", 32}, {"both", 100}, {"a", 2}, {"b", 10}};
  EXPECT_EQ(found, expected);
  ASSERT_EQ(image.entries.size(), 2u);
  EXPECT_EQ(image.entries[0].name, "first");
  EXPECT_EQ(image.entries[0].parameter_bytes, 8u);
  EXPECT_EQ(image.entries[1].name, "second");
}

TEST_F(ModuleTest, WhatIsNoImageIsRefused) {
  CUmodule module = nullptr;
  EXPECT_EQ(cuModuleLoadData(&module, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuModuleLoadData(&module, "\x01\x02\x03\x04\x05"), CUDA_ERROR_INVALID_IMAGE);
  EXPECT_EQ(cuModuleLoadData(&module, "hello, world"), CUDA_ERROR_INVALID_PTX);
  EXPECT_EQ(cuModuleLoad(&module, "/nowhere.ptx"), CUDA_ERROR_FILE_NOT_FOUND);
}

// A cubin with one array without content and one kernel, built here.
std::vector<char> make_cubin(uint64_t bytes) {
  const std::string names("\0.nv.global\0.text.kern\0.symtab\0.strtab\0.shstrtab\0", 50);
  const std::string strings("\0array\0", 7);
  Elf64_Sym symbols[2] = {};
  symbols[1].st_name = 1;
  symbols[1].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT);
  symbols[1].st_shndx = 1;
  symbols[1].st_size = bytes;
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = 190;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 6;
  header.e_shstrndx = 5;
  Elf64_Shdr sections[6] = {};
  uint64_t at = sizeof header;
  const auto place = [&](int i, uint32_t name, uint32_t type, uint64_t size, uint64_t in_file) {
    sections[i].sh_name = name;
    sections[i].sh_type = type;
    sections[i].sh_offset = at;
    sections[i].sh_size = size;
    sections[i].sh_addralign = 4;
    at += in_file;
  };
  place(1, 1, SHT_NOBITS, bytes, 0);
  place(2, 12, SHT_PROGBITS, 16, 16);
  place(3, 23, SHT_SYMTAB, sizeof symbols, sizeof symbols);
  place(4, 31, SHT_STRTAB, strings.size(), strings.size());
  place(5, 39, SHT_STRTAB, names.size(), names.size());
  sections[3].sh_link = 4;
  header.e_shoff = at;
  std::vector<char> image(at + sizeof sections);
  std::memcpy(image.data(), &header, sizeof header);
  std::memcpy(image.data() + sections[3].sh_offset, symbols, sizeof symbols);
  std::memcpy(image.data() + sections[4].sh_offset, strings.data(), strings.size());
  std::memcpy(image.data() + sections[5].sh_offset, names.data(), names.size());
  std::memcpy(image.data() + at, sections, sizeof sections);
  return image;
}

TEST_F(ModuleTest, CubinsAndFatbinariesAreRead) {
  const std::vector<char> cubin = make_cubin(5 * kGiB);
  const Marked mark;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUdeviceptr address = 0;
  size_t bytes = 0;
  ASSERT_CUDA(cuModuleLoadData(&module, cubin.data()));
  EXPECT_EQ(mark.listed(), 5120);
  ASSERT_CUDA(cuModuleGetGlobal_v2(&address, &bytes, module, "array"));
  EXPECT_EQ(bytes, 5 * kGiB);
  ASSERT_CUDA(cuModuleGetFunction(&function, module, "kern"));
  ASSERT_CUDA(cuModuleUnload(module));
  struct {
    uint32_t magic = 0xba55ed50;
    uint16_t version = 1, header_bytes = 16;
    uint64_t bytes = 0;
    struct {
      uint16_t kind = 2, version = 1;
      uint32_t header_bytes = 64;
      uint64_t bytes = 0;
      char rest[48] = {};
    } entry;
  } fat;
  fat.entry.bytes = cubin.size();
  fat.bytes = 64 + cubin.size();
  std::vector<char> image(sizeof fat + cubin.size());
  std::memcpy(image.data(), &fat, sizeof fat);
  std::memcpy(image.data() + sizeof fat, cubin.data(), cubin.size());
  ASSERT_CUDA(cuModuleLoadFatBinary(&module, image.data()));
  EXPECT_EQ(mark.listed(), 5120);
}

TEST_F(ModuleTest, MoreThanTheCardHasIsRefusedAndLeavesNothing) {
  const Marked mark;
  CUmodule module = nullptr;
  const std::string image = ptx_with_array(100 * kGiB) + ".global .b8 before[3000000];\n";
  EXPECT_EQ(cuModuleLoadData(&module, image.c_str()), CUDA_ERROR_OUT_OF_MEMORY);
  const std::string turned = ptx_with_array(3 * kMiB) + ".global .b8 last[107374182400];\n";
  EXPECT_EQ(cuModuleLoadData(&module, turned.c_str()), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(mark.used(), 0);
}

TEST_F(ModuleTest, AKernelCanBeLaunchedByItsLibraryHandle) {
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  ASSERT_CUDA(cuLibraryLoadData(&library, ptx_with_array(4).c_str(), nullptr, nullptr, 0, nullptr,
                                nullptr, 0));
  ASSERT_CUDA(cuLibraryGetKernel(&kernel, library, "spin_us"));
  unsigned int us = 1;
  void* params[] = {&us};
  EXPECT_CUDA(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 32, 1, 1, 0, nullptr,
                             params, nullptr));
  EXPECT_EQ(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 0, 1, 1, 32, 1, 1, 0, nullptr,
                           params, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 1025, 1, 1, 0, nullptr,
                           params, nullptr),
            CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace softmig::sim_test
