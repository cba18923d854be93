// Sampling positions of the warp by landmarks on CUDA devices.
#pragma once

#include "cuda_launch.h"
#include "warp_formula.h"

namespace talkinghead {

constexpr int kLongestSide = 1 << 15;  // so that twice a place fits into 32 bits

struct Sizes {
  int64_t batch;
  int channels, height, width, rows, columns;  // the last two: of the field
  bool channels_last;

  __host__ __device__ int area() const { return height * width; }
  __host__ __device__ int cells() const { return rows * columns; }
  __host__ __device__ int64_t values() const { return int64_t(channels) * area(); }
  __host__ __device__ int64_t per_pixel() const { return channels_last ? channels : 1; }
  __host__ __device__ int64_t per_channel() const { return channels_last ? 1 : area(); }
};

// Returns the two of `field` values that position `index` of `picture` lies between, and the
// fraction from the first. Twice the position is an exact integer over `picture`.
struct Between {
  int first, second;
  float fraction;
};

__device__ __forceinline__ Between between(int index, int picture, int field) {
  const int twice = max((2 * index + 1) * field - picture, 0);
  const int first = min(twice / (2 * picture), field - 1), rest = twice - first * 2 * picture;
  const bool within = rest > 0 && first + 1 < field;
  // Where the fraction is 0, the other value must not contribute, even if it is not finite.
  return {first, within ? first + 1 : first,
          within ? static_cast<float>(rest) / static_cast<float>(2 * picture) : 0.0f};
}

__device__ __forceinline__ float enlarge(const float* field, int columns, const Between& down,
                                         const Between& across) {
  const float* upper = field + static_cast<int64_t>(down.first) * columns;
  const float* lower = field + static_cast<int64_t>(down.second) * columns;
  const float a = __ldg(upper + across.first), b = __ldg(upper + across.second);
  const float left = a + down.fraction * (__ldg(lower + across.first) - a);
  const float right = b + down.fraction * (__ldg(lower + across.second) - b);
  return left + across.fraction * (right - left);
}

// The pixel before a position, and the fraction, NaN if the position is not finite; the pixel can
// be clamped to the border even then.
struct Place {
  int pixel;
  float fraction;
};

__device__ __forceinline__ Place displace(float by, int from, int size) {
  const float most = static_cast<float>(size) + kBeyond;
  float near = by > -most ? by : -most;
  near = near < most ? near : most;
  const float below = floorf(near);
  // Not by - by: fused with the multiplication that computed `by`, that is its rounding error,
  // which is larger than the image for positions far away.
  return {from + static_cast<int>(below), near - below + by * 0.0f};
}

struct SamplingPoint {
  Place x, y;
};

__device__ __forceinline__ SamplingPoint sampling_point(const float* motion, const Sizes& s,
                                                        int64_t sample, int pixel) {
  const int row = pixel / s.width, column = pixel % s.width;
  const Between down = between(row, s.height, s.rows);
  const Between across = between(column, s.width, s.columns);
  const float* field = motion + sample * 2 * s.cells();
  const float right = enlarge(field, s.columns, down, across) * static_cast<float>(s.width);
  const float below =
      enlarge(field + s.cells(), s.columns, down, across) * static_cast<float>(s.height);
  return {displace(right, column, s.width), displace(below, row, s.height)};
}

// Weights of the four taps, and their derivatives with respect to the fraction.
__device__ __forceinline__ void cubic(float t, float (&weight)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    weight[i] = ((kCubic[0][i] * t + kCubic[1][i]) * t + kCubic[2][i]) * t + kCubic[3][i];
}
__device__ __forceinline__ void cubic_slope(float t, float (&slope)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    slope[i] = (3 * kCubic[0][i] * t + 2 * kCubic[1][i]) * t + kCubic[2][i];
}

// Offsets of the 16 taps in a plane, clamped to the border.
struct Taps {
  int rows[4], columns[4];
};

__device__ __forceinline__ Taps taps_of(const SamplingPoint& point, const Sizes& s) {
  Taps taps;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    taps.rows[i] = min(max(point.y.pixel - 1 + i, 0), s.height - 1) * s.width;
    taps.columns[i] = min(max(point.x.pixel - 1 + i, 0), s.width - 1);
  }
  return taps;
}

}  // namespace talkinghead
