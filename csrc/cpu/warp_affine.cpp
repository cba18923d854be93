// Squares of uint8 images, sampled by affine maps, on the CPU. Formula:
// kernels/talkinghead_kernels/warp_affine.py; schemas: extension.py in the same folder.
//
// A pixel of the result reads two pairs of adjacent pixels, 8 bytes each, where these lie inside
// the image; near its borders pixels are added one by one. Rows of the result are independent.
#include "channels_last.h"

#include <algorithm>
#include <cmath>

namespace talkinghead {
namespace {

constexpr int64_t kGrain = 64;  // minimum number of rows per thread

struct Image {
  const uint8_t* pixels;
  int64_t height, width, row_size;  // row_size in bytes
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/warp_affine.cpp"
#include "simd.h"

#ifdef SIMD_PASS

typedef float Pair
    __attribute__((vector_size(32)));  // two pixels and two floats that count nothing
typedef float Pixel __attribute__((vector_size(16)));

// Not a result, because the baseline has no registers for one.
SIMD_INLINE void load_pair(const uint8_t* from, Pair& to) {
#if SIMD_BYTES >= 32
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  to = (Pair)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
#else
  for (int i = 0; i < 8; ++i) to[i] = static_cast<float>(from[i]);
#endif
}

// Adds the pixels at (x, y) and beside it that lie inside the image.
SIMD_INLINE void sample_border(const Image& image, float x, float y, float* to) {
  const float left = __builtin_floorf(x), top = __builtin_floorf(y);
  float sums[3] = {};
  for (int down = 0; down < 2; ++down) {
    const int64_t row = static_cast<int64_t>(top) + down;
    if (row < 0 || row >= image.height) continue;
    const float share = (down ? y - top : 1 - (y - top)) * (1.0f / 255);
    for (int across = 0; across < 2; ++across) {
      const int64_t column = static_cast<int64_t>(left) + across;
      if (column < 0 || column >= image.width) continue;
      const float weight = share * (across ? x - left : 1 - (x - left));
      const uint8_t* pixel = image.pixels + row * image.row_size + column * 3;
      for (int i = 0; i < 3; ++i) sums[i] += weight * static_cast<float>(pixel[i]);
    }
  }
  for (int i = 0; i < 3; ++i) to[i] = sums[i];
}

// A pixel between two pairs of pixels, the first two of which start at `from`.
SIMD_INLINE void sample_inside(const uint8_t* from, int64_t row_size, float across, float down,
                               Pixel& to) {
  const Pair is_second = {0, 0, 0, 1, 1, 1, 0, 0};
  Pair above, below;
  load_pair(from, above);
  load_pair(from + row_size, below);
  const Pair sum = above * (1.0f / 255 - down) + below * down;
  const Pair weighted = sum * (is_second * (2 * across - 1) + (1 - across));
  to = __builtin_shufflevector(weighted, weighted, 0, 1, 2, 3) +
       __builtin_shufflevector(weighted, weighted, 3, 4, 5, 6);
}

// Whether the two pairs of pixels at a position, and the bytes after them, belong to the image.
SIMD_INLINE bool is_inside(const Image& image, float x, float y) {
  return x >= 0 && x < static_cast<float>(image.width - 2) && y >= 0 &&
         y < static_cast<float>(image.height - 1);
}

// Computes a row of the result. `start` is the position of its first pixel, `step` the distance of
// two, both (x, y) in pixels of the image.
void sample_row(const Image& source, const float* start, const float* step, int64_t size,
                float* to) {
  const Image image = source;  // copies, which the result cannot overlap
  const float start_x = start[0], start_y = start[1], step_x = step[0], step_y = step[1];
  const int32_t row_size = static_cast<int32_t>(image.row_size);
  const bool fits = image.height * image.row_size < (int64_t{1} << 31);
  Floats lanes;
  for (int l = 0; l < kLanes; ++l) lanes[l] = static_cast<float>(l);
  for (int64_t i = 0; i < size;) {
    const Floats columns = lanes + static_cast<float>(i);
    const Floats xs = columns * step_x + start_x, ys = columns * step_y + start_y;
    const float x = xs[0], y = ys[0];
    // a vector of pixels lies inside if its ends do; every pixel writes a float of the next
    if (fits && i + kLanes < size && is_inside(image, x, y) &&
        is_inside(image, xs[kLanes - 1], ys[kLanes - 1])) {
      const Ints left = __builtin_convertvector(xs, Ints), top = __builtin_convertvector(ys, Ints);
      const Floats across = xs - __builtin_convertvector(left, Floats);
      const Floats down = (ys - __builtin_convertvector(top, Floats)) * (1.0f / 255);
      const Ints offset = top * row_size + left * 3;
      for (int l = 0; l < kLanes; ++l, to += 3) {
        Pixel pixel;
        sample_inside(image.pixels + offset[l], row_size, across[l], down[l], pixel);
        __builtin_memcpy(to, &pixel, sizeof pixel);
      }
      i += kLanes;
      continue;
    }
    if (is_inside(image, x, y)) {
      const int64_t left = static_cast<int64_t>(x), top = static_cast<int64_t>(y);
      Pixel pixel;
      sample_inside(image.pixels + top * image.row_size + left * 3, image.row_size,
                    x - static_cast<float>(left), (y - static_cast<float>(top)) * (1.0f / 255),
                    pixel);
      __builtin_memcpy(to, &pixel, 3 * sizeof(float));
    } else if (x > -1 && x < static_cast<float>(image.width) && y > -1 &&
               y < static_cast<float>(image.height)) {
      sample_border(image, x, y, to);
    } else {  // outside, or not finite
      to[0] = to[1] = to[2] = 0;
    }
    ++i;
    to += 3;
  }
}

#else

namespace talkinghead {
namespace {

void warp_affine(std::vector<Tensor> images, const Tensor& transforms, Tensor result) {
  const int64_t count = static_cast<int64_t>(images.size()), size = result.size(3);
  STD_TORCH_CHECK(is_channels_last(result) && result.size(0) == count && result.size(1) == 3 &&
                      result.size(2) == size,
                  "warp_affine: result must be float32 [N, 3, size, size] in channels_last");
  STD_TORCH_CHECK(transforms.scalar_type() == ScalarType::Double && transforms.is_contiguous() &&
                      transforms.numel() == 6 * count,
                  "warp_affine: transforms must be contiguous float64 [N, 2, 3]");
  std::vector<Image> sources;
  for (const Tensor& image : images) {
    STD_TORCH_CHECK(image.dim() == 3 && image.size(2) == 3 && image.stride(2) == 1 &&
                        image.stride(1) == 3 && image.scalar_type() == ScalarType::Byte,
                    "warp_affine: images must be uint8 [H, W, 3] whose rows are contiguous");
    sources.push_back({static_cast<const uint8_t*>(image.data_ptr()), image.size(0), image.size(1),
                       image.stride(0)});
  }
  const double* maps = static_cast<const double*>(transforms.data_ptr());
  float* to = static_cast<float*>(result.data_ptr());
  const auto sample_row = SIMD_BEST(sample_row);
  torch::stable::parallel_for(0, count * size, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double* map = maps + i / size * 6;
      const double row = static_cast<double>(i % size);
      const float start[2] = {static_cast<float>(map[1] * row + map[2]),
                              static_cast<float>(map[4] * row + map[5])};
      const float step[2] = {static_cast<float>(map[0]), static_cast<float>(map[3])};
      sample_row(sources[i / size], start, step, size, to + i * size * 3);
    }
  });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("warp_affine", TORCH_BOX(&talkinghead::warp_affine));
}

#endif
