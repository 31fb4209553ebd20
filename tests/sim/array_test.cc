// Arrays take what the driver says of their deferred twins, rounded as memory is; small ones take
// less, by layers of 512 bytes.
#include <ostream>
#include <vector>

#include "harness.h"

namespace softmig::sim_test {
namespace {

struct Shape {
  const char* name;
  size_t width, height, depth;
  CUarray_format format;
  unsigned int channels, flags;
  double required;  // MiB, of one
  double taken;     // MiB, by 32
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

class ShapeTest : public ContextTest, public testing::WithParamInterface<Shape> {};

TEST_P(ShapeTest, TakesWhatTheCardTakes) {
  const Shape& shape = GetParam();
  CUDA_ARRAY3D_DESCRIPTOR desc{shape.width,    shape.height,
                               shape.depth,    shape.format,
                               shape.channels, shape.flags | CUDA_ARRAY3D_DEFERRED_MAPPING};
  const Marked mark;
  CUarray array = nullptr;
  CUDA_ARRAY_MEMORY_REQUIREMENTS needs{};
  ASSERT_CUDA(cuArray3DCreate_v2(&array, &desc));
  ASSERT_CUDA(cuArrayGetMemoryRequirements(&needs, array, 0));
  EXPECT_EQ(static_cast<double>(needs.size) / kMiB, shape.required);
  EXPECT_EQ(needs.alignment, 64 * kKiB);
  EXPECT_EQ(mark.used(), 0);
  ASSERT_CUDA(cuArrayDestroy(array));
  desc.Flags = shape.flags;
  std::vector<CUarray> arrays(32);
  for (CUarray& one : arrays) ASSERT_CUDA(cuArray3DCreate_v2(&one, &desc));
  EXPECT_EQ(cuArrayGetMemoryRequirements(&needs, arrays[0], 0), CUDA_ERROR_INVALID_VALUE)
      << "of a plain one";
  EXPECT_EQ(mark.used(), shape.taken);
  EXPECT_EQ(mark.listed(), shape.taken);
  for (CUarray one : arrays) ASSERT_CUDA(cuArrayDestroy(one));
  EXPECT_EQ(mark.used(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Measured, ShapeTest,
    testing::Values(
        Shape{"Small2d", 64, 64, 0, CU_AD_FORMAT_FLOAT, 1, 0, 0.0625, 2},
        Shape{"Small1d", 1024, 0, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 0.0625, 2},
        Shape{"Tiny2d", 8, 8, 0, CU_AD_FORMAT_FLOAT, 1, 0, 0.0625, 2},
        Shape{"Padded2d", 96, 96, 0, CU_AD_FORMAT_FLOAT, 1, 0, 0.0625, 2},
        Shape{"Tall2d", 160, 160, 0, CU_AD_FORMAT_FLOAT, 1, 0, 0.1875, 6},
        Shape{"Small3d", 16, 16, 16, CU_AD_FORMAT_FLOAT, 1, 0, 0.0625, 2},
        Shape{"SmallCubemap", 46, 46, 6, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP, 0.125, 4},
        Shape{"Odd2d", 1000, 1000, 0, CU_AD_FORMAT_FLOAT, 4, 0, 15.625, 512},
        Shape{"Large2d", 4096, 4096, 0, CU_AD_FORMAT_FLOAT, 1, 0, 64, 2048},
        Shape{"Cube3d", 100, 100, 100, CU_AD_FORMAT_FLOAT, 2, 0, 9.25, 320},
        Shape{"Odd3d", 257, 129, 33, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0, 2, 64},
        Shape{"Cubemap", 512, 512, 6, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP, 6, 192},
        Shape{"Layered", 512, 512, 64, CU_AD_FORMAT_HALF, 1, CUDA_ARRAY3D_LAYERED, 32, 1024},
        Shape{"Surface", 1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_SURFACE_LDST, 4, 128}),
    [](const auto& info) { return info.param.name; });

using ArrayTest = ContextTest;

TEST_F(ArrayTest, MipmappedArraysTakeAllLevels) {
  CUDA_ARRAY3D_DESCRIPTOR desc{1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_DEFERRED_MAPPING};
  CUmipmappedArray mipmap = nullptr;
  CUDA_ARRAY_MEMORY_REQUIREMENTS needs{};
  ASSERT_CUDA(cuMipmappedArrayCreate(&mipmap, &desc, 11));
  ASSERT_CUDA(cuMipmappedArrayGetMemoryRequirements(&needs, mipmap, 0));
  EXPECT_EQ(static_cast<double>(needs.size) / kMiB, 5.375);
  desc.Flags = 0;
  const Marked mark;
  std::vector<CUmipmappedArray> arrays(16);
  for (CUmipmappedArray& one : arrays) ASSERT_CUDA(cuMipmappedArrayCreate(&one, &desc, 11));
  EXPECT_EQ(mark.listed(), 96);
  CUarray level = nullptr;
  CUDA_ARRAY_DESCRIPTOR of_level{};
  ASSERT_CUDA(cuMipmappedArrayGetLevel(&level, arrays[0], 3));
  ASSERT_CUDA(cuArrayGetDescriptor_v2(&of_level, level));
  EXPECT_EQ(of_level.Width, 128u);
  EXPECT_EQ(cuMipmappedArrayGetLevel(&level, arrays[0], 11), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuArrayDestroy(level), CUDA_ERROR_INVALID_HANDLE) << "part of the whole";
  for (CUmipmappedArray one : arrays) ASSERT_CUDA(cuMipmappedArrayDestroy(one));
  EXPECT_EQ(mark.listed(), 0);
}

TEST_F(ArrayTest, ADeferredArrayHoldsWhatIsMappedToIt) {
  const Marked mark;
  CUDA_ARRAY3D_DESCRIPTOR desc{1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_DEFERRED_MAPPING};
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemGenericAllocationHandle handle = 0;
  CUarray array = nullptr;
  ASSERT_CUDA(cuArray3DCreate_v2(&array, &desc));
  ASSERT_CUDA(cuMemCreate(&handle, 4 * kMiB, &prop, 0));
  CUarrayMapInfo info{};
  info.resourceType = CU_RESOURCE_TYPE_ARRAY;
  info.resource.array = array;
  info.memOperationType = CU_MEM_OPERATION_TYPE_MAP;
  info.memHandle.memHandle = handle;
  ASSERT_CUDA(cuMemMapArrayAsync(&info, 1, nullptr));
  ASSERT_CUDA(cuMemRelease(handle));
  EXPECT_EQ(mark.listed(), 4);
  ASSERT_CUDA(cuArrayDestroy(array));
  EXPECT_EQ(mark.listed(), 0);
}

TEST_F(ArrayTest, NonsenseIsRefused) {
  CUarray array = nullptr;
  const CUDA_ARRAY_DESCRIPTOR bad[] = {{0, 1, CU_AD_FORMAT_FLOAT, 1},
                                       {64, 64, static_cast<CUarray_format>(0x77), 1},
                                       {64, 64, CU_AD_FORMAT_FLOAT, 3},
                                       {1 << 20, 64, CU_AD_FORMAT_FLOAT, 1}};
  for (const auto& desc : bad) EXPECT_EQ(cuArrayCreate_v2(&array, &desc), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuArrayDestroy(nullptr), CUDA_ERROR_INVALID_HANDLE);
  const CUDA_ARRAY_DESCRIPTOR_v1 old{64, 64, CU_AD_FORMAT_FLOAT, 1};
  ASSERT_CUDA(cuArrayCreate(&array, &old));
  EXPECT_CUDA(cuArrayDestroy(array));
  EXPECT_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
}

}  // namespace
}  // namespace softmig::sim_test
