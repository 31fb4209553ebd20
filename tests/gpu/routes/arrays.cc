// CUDA arrays of every shape, and mipmapped arrays.
#include <algorithm>
#include <bit>

#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

constexpr uint64_t kElement = 16;  // four floats
constexpr uint64_t kMaxWidth1d = 131072;

enum class Shape { k1d, k2d, k3d, kLayered, kCubemap, kCubemapLayered, kSurface };

// Largest power of two whose `dimensions`-th power is not above `elements`; at least 1.
uint64_t side(uint64_t elements, int dimensions) {
  const int log = elements == 0 ? 0 : std::bit_width(elements) - 1;
  return uint64_t{1} << (log / dimensions);
}

CUDA_ARRAY3D_DESCRIPTOR describe(Shape shape, uint64_t bytes) {
  const uint64_t n = std::max<uint64_t>(1, bytes / kElement);
  CUDA_ARRAY3D_DESCRIPTOR d{};
  d.Format = CU_AD_FORMAT_FLOAT;
  d.NumChannels = 4;
  switch (shape) {
    case Shape::k1d:
      d.Width = std::min(n, kMaxWidth1d);
      break;
    case Shape::kSurface:
      d.Flags = CUDA_ARRAY3D_SURFACE_LDST;
      [[fallthrough]];
    case Shape::k2d:
      d.Width = side(n, 2);
      d.Height = n / d.Width;
      break;
    case Shape::k3d:
      d.Width = d.Height = side(n, 3);
      d.Depth = n / (d.Width * d.Height);
      break;
    case Shape::kLayered:
      d.Flags = CUDA_ARRAY3D_LAYERED;
      d.Depth = 4;
      d.Width = side(n / 4, 2);
      d.Height = std::max<uint64_t>(1, n / 4 / d.Width);
      break;
    case Shape::kCubemap:
    case Shape::kCubemapLayered:
      d.Flags = CUDA_ARRAY3D_CUBEMAP | (shape == Shape::kCubemap ? 0 : CUDA_ARRAY3D_LAYERED);
      d.Depth = shape == Shape::kCubemap ? 6 : 12;
      d.Width = d.Height = side(n / d.Depth, 2);
      break;
  }
  return d;
}

uint64_t bytes_of(const CUDA_ARRAY3D_DESCRIPTOR& d) {
  return d.Width * std::max<uint64_t>(1, d.Height) * std::max<uint64_t>(1, d.Depth) * kElement;
}

class Array : public Route {
 public:
  Array(const Session& session, Shape shape) : driver_(session.driver), shape_(shape) {}

  CUresult take(uint64_t bytes, uint64_t* got) override {
    const CUDA_ARRAY3D_DESCRIPTOR desc = describe(shape_, bytes);
    CUarray array = nullptr;
    CUresult code = CUDA_SUCCESS;
    if (shape_ == Shape::k1d || shape_ == Shape::k2d) {
      const CUDA_ARRAY_DESCRIPTOR flat{desc.Width, desc.Height, desc.Format, desc.NumChannels};
      code = driver_.cuArrayCreate_v2(&array, &flat);
    } else {
      code = driver_.cuArray3DCreate_v2(&array, &desc);
    }
    if (code != CUDA_SUCCESS) return code;
    held_.push_back(array);
    *got = bytes_of(desc);
    return code;
  }

  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (CUarray array : held_) {
      if (CUresult code = driver_.cuArrayDestroy(array); first == CUDA_SUCCESS) first = code;
    }
    held_.clear();
    return first;
  }

 private:
  const Driver& driver_;
  Shape shape_;
  std::vector<CUarray> held_;
};

class Mipmapped : public Route {
 public:
  explicit Mipmapped(const Session& session) : driver_(session.driver) {}

  CUresult take(uint64_t bytes, uint64_t* got) override {
    const CUDA_ARRAY3D_DESCRIPTOR desc = describe(Shape::k2d, bytes / 4 * 3);
    const auto levels =
        static_cast<unsigned int>(std::bit_width(std::max(desc.Width, desc.Height)));
    CUmipmappedArray array = nullptr;
    const CUresult code = driver_.cuMipmappedArrayCreate(&array, &desc, levels);
    if (code != CUDA_SUCCESS) return code;
    held_.push_back(array);
    *got = bytes_of(desc);
    return code;
  }

  CUresult give_back() override {
    CUresult first = CUDA_SUCCESS;
    for (CUmipmappedArray array : held_) {
      if (CUresult code = driver_.cuMipmappedArrayDestroy(array); first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    return first;
  }

 private:
  const Driver& driver_;
  std::vector<CUmipmappedArray> held_;
};

}  // namespace

std::unique_ptr<Route> make_array_route(std::string_view name, const Session& session,
                                        bool* missing) {
  static constexpr struct {
    std::string_view name;
    Shape shape;
  } kShapes[] = {
      {"array_1d", Shape::k1d},           {"array_2d", Shape::k2d},
      {"array_3d", Shape::k3d},           {"array_layered", Shape::kLayered},
      {"array_cubemap", Shape::kCubemap}, {"array_cubemap_layered", Shape::kCubemapLayered},
      {"array_surface", Shape::kSurface}};
  *missing = false;
  if (name == "mipmapped") return std::make_unique<Mipmapped>(session);
  for (const auto& row : kShapes) {
    if (name == row.name) return std::make_unique<Array>(session, row.shape);
  }
  return nullptr;
}

}  // namespace softmig::gpu_test
