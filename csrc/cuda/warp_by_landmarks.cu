// Motion fields by moving least squares, bicubic sampling and its gradient on CUDA devices.
// Formula: kernels/talkinghead_kernels/warp_by_landmarks.py; layouts: extension.py in the same
// folder.
//
// A thread computes a position of the field or a pixel of the result, and interpolates the field
// there. Two runs give the same bits. The gradient of the image is a scatter: sums are 64-bit
// integers, whose atomic additions give the same result in any order. Their unit is 2^-k, with k
// for each sample so large that no sum of the sample can overflow:
//
//   k = 60 - ceil(log2(H W)) - exponent of the largest gradient
//
// so that a unit is smaller than the resolution of float32 in the largest gradient by 2^13 or more.
// A sample with a gradient or a position that is not finite gets NaN everywhere. The gradient of
// the field is a gather: a warp sums the contributions of the pixels around a value in a fixed
// order.
#include "warp_positions.cuh"

namespace talkinghead {
namespace {

constexpr const char* kMotion = "landmark_motion";
constexpr const char* kForward = "warp_forward";
constexpr const char* kBackward = "warp_backward";
constexpr int kThreads = 256, kPlaces = 64;
constexpr unsigned kNotFinite = 0x7f800000;  // bits of infinity; those of NaN are larger

using Sum = unsigned long long;

constexpr int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

inline dim3 blocks_of(const char* op, int64_t batch, int64_t each, int64_t threads) {
  const int64_t blocks = batch * divide_up(each, threads);
  if (blocks > 0x7fffffff)
    throw std::runtime_error(std::string(op) + ": too large for one launch; split the batch");
  return dim3(static_cast<unsigned>(blocks));
}

// The work of a thread: `index` of `count` in a sample; past the end if it has none.
struct Work {
  int64_t sample;
  int index;
};

__device__ __forceinline__ Work work_of(int count) {
  const int blocks = (count + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
  const int block = static_cast<int>(blockIdx.x);
  return {block / blocks,
          block % blocks * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)};
}

// ---- the field ---------------------------------------------------------------------------------

struct Points {
  const float *source, *target;
  int count, grid;
};

// Target (d) and source (s) of a point, minus a position, and its weight there.
struct Pull {
  float dx, dy, sx, sy, weight;
};

__device__ __forceinline__ Pull pull_of(const Points& p, int64_t sample, int i, float x, float y) {
  const bool landmark = i < p.count;
  const int64_t at = 2 * (sample * p.count + i);
  const float* edge = kBorder[landmark ? 0 : i - p.count];
  Pull pull;
  pull.dx = (landmark ? __ldg(p.target + at) : edge[0]) - x;
  pull.dy = (landmark ? __ldg(p.target + at + 1) : edge[1]) - y;
  pull.sx = (landmark ? __ldg(p.source + at) : edge[0]) - x;
  pull.sy = (landmark ? __ldg(p.source + at + 1) : edge[1]) - y;
  const float squared = pull.dx * pull.dx + pull.dy * pull.dy + kSoftening;
  pull.weight = (landmark ? 1.0f : kBorderStrength) / (squared * sqrtf(squared));
  return pull;
}

__global__ void __launch_bounds__(kPlaces) motion_kernel(Points p, float* motion) {
  const int places = p.grid * p.grid;
  const Work work = work_of(places);
  if (work.index >= places) return;
  const float side = static_cast<float>(p.grid);
  const float x = (static_cast<float>(work.index % p.grid) + 0.5f) / side;
  const float y = (static_cast<float>(work.index / p.grid) + 0.5f) / side;
  float total = 0;
  Pull mean = {};
  for (int i = 0; i < p.count + kBorderPoints; ++i) {
    const Pull pull = pull_of(p, work.sample, i, x, y);
    total += pull.weight;
    mean.dx += pull.weight * pull.dx;
    mean.dy += pull.weight * pull.dy;
    mean.sx += pull.weight * pull.sx;
    mean.sy += pull.weight * pull.sy;
  }
  const float share = 1 / total;
  mean = {mean.dx * share, mean.dy * share, mean.sx * share, mean.sy * share, 0};
  float a11 = kRidge, a12 = 0, a22 = kRidge, b11 = kRidge, b12 = 0, b21 = 0, b22 = kRidge;
  for (int i = 0; i < p.count + kBorderPoints; ++i) {
    const Pull pull = pull_of(p, work.sample, i, x, y);
    const float dx = pull.dx - mean.dx, dy = pull.dy - mean.dy;
    const float sx = pull.sx - mean.sx, sy = pull.sy - mean.sy;
    const float wx = pull.weight * share * dx, wy = pull.weight * share * dy;
    a11 += wx * dx;
    a12 += wx * dy;
    a22 += wy * dy;
    b11 += wx * sx;
    b12 += wx * sy;
    b21 += wy * sx;
    b22 += wy * sy;
  }
  const float scale = 1 / (a11 * a22 - a12 * a12);
  const float u = scale * (a12 * mean.dy - a22 * mean.dx);  // (p - d*) A^-1
  const float v = scale * (a12 * mean.dx - a11 * mean.dy);
  float* out = motion + work.sample * 2 * places + work.index;
  out[0] = u * b11 + v * b21 + mean.sx;
  out[places] = u * b12 + v * b22 + mean.sy;
}

void make_motion(const Points& p, int64_t batch, float* motion, cudaStream_t stream) {
  if (batch == 0) return;
  const dim3 blocks = blocks_of(kMotion, batch, int64_t(p.grid) * p.grid, kPlaces);
  launch(kMotion, {blocks, dim3(kPlaces)}, stream, motion_kernel, p, motion);
}

// ---- forward -----------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Sizes s, const T* image, const float* motion, T* result) {
  const Work work = work_of(s.area());
  if (work.index >= s.area()) return;
  const SamplingPoint point = sampling_point(motion, s, work.sample, work.index);
  const Taps taps = taps_of(point, s);
  float across[4], down[4];
  cubic(point.x.fraction, across);
  cubic(point.y.fraction, down);
  const int64_t step = s.per_pixel();
  image += work.sample * s.values();
  result += work.sample * s.values() + work.index * step;
  for (int channel = 0; channel < s.channels; ++channel) {
    const T* plane = image + channel * s.per_channel();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float row = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        row += across[k] * to_float<T>(plane[(taps.rows[i] + taps.columns[k]) * step]);
      sum += down[i] * row;
    }
    result[channel * s.per_channel()] = from_float<T>(sum);
  }
}

template <class T>
void forward(const Sizes& s, const void* image, const float* motion, void* result,
             cudaStream_t stream) {
  if (s.batch == 0) return;
  const dim3 blocks = blocks_of(kForward, s.batch, s.area(), kThreads);
  launch(kForward, {blocks, dim3(kThreads)}, stream, forward_kernel<T>, s,
         static_cast<const T*>(image), motion, static_cast<T*>(result));
}

// ---- backward ----------------------------------------------------------------------------------

// The bits of the largest magnitude of the gradient of a sample, at least kNotFinite if the
// gradient or a position is not finite.
template <class T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(Sizes s, const T* grad, const float* motion, unsigned* largest) {
  const Work work = work_of(s.area());
  unsigned bits = 0;
  if (work.index < s.area()) {
    const SamplingPoint point = sampling_point(motion, s, work.sample, work.index);
    const float sum = point.x.fraction + point.y.fraction;
    if (!(sum == sum)) bits = kNotFinite;
    grad += work.sample * s.values() + work.index * s.per_pixel();
    for (int channel = 0; channel < s.channels; ++channel)
      bits = max(bits, __float_as_uint(to_float<T>(grad[channel * s.per_channel()])) & 0x7fffffffu);
  }
  bits = __reduce_max_sync(0xffffffffu, bits);
  if (threadIdx.x % 32 == 0) atomicMax(largest + work.sample, bits);
}

// 2^k of a sample, or 2^-k.
__device__ __forceinline__ float unit_of(unsigned largest, int room, bool inverse) {
  const int exponent = static_cast<int>(largest >> 23) - 126;  // the largest is below 2^exponent
  const int k = min(max(room - exponent, -126), 126);
  return __uint_as_float(static_cast<unsigned>(127 + (inverse ? -k : k)) << 23);
}

// `sums` and `slopes` are null if they are not needed. slopes [B, 2, H, W]: the gradient of
// positions, in pixels.
template <class T>
__global__ void __launch_bounds__(kThreads)
    spread_kernel(Sizes s, const T* grad, const T* image, const float* motion,
                  const unsigned* largest, int room, Sum* sums, float* slopes) {
  const Work work = work_of(s.area());
  if (work.index >= s.area()) return;
  const SamplingPoint point = sampling_point(motion, s, work.sample, work.index);
  const Taps taps = taps_of(point, s);
  float across[4], down[4], across_slope[4], down_slope[4];
  cubic(point.x.fraction, across);
  cubic(point.y.fraction, down);
  cubic_slope(point.x.fraction, across_slope);
  cubic_slope(point.y.fraction, down_slope);
  const int64_t step = s.per_pixel(), start = work.sample * s.values();
  const bool scatter = sums && largest[work.sample] < kNotFinite;
  const float unit = scatter ? unit_of(largest[work.sample], room, false) : 0;
  float slope_x = 0, slope_y = 0;
  for (int channel = 0; channel < s.channels; ++channel) {
    const int64_t plane = start + channel * s.per_channel();
    const float g = to_float<T>(grad[plane + work.index * step]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float row = 0, row_slope = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int64_t at = plane + (taps.rows[i] + taps.columns[k]) * step;
        if (slopes) {
          const float value = to_float<T>(image[at]);
          row += across[k] * value;
          row_slope += across_slope[k] * value;
        }
        if (scatter) {
          const float share = across[k] * down[i] * g;
          atomicAdd(sums + at, static_cast<Sum>(llrintf(share * unit)));
        }
      }
      slope_x += g * down[i] * row_slope;
      slope_y += g * down_slope[i] * row;
    }
  }
  if (!slopes) return;
  slopes[work.sample * 2 * s.area() + work.index] = slope_x;
  slopes[(work.sample * 2 + 1) * s.area() + work.index] = slope_y;
}

__global__ void __launch_bounds__(kThreads)
    finish_kernel(int64_t values, int64_t total, const Sum* sums, const unsigned* largest, int room,
                  float* grad_image) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const unsigned most = largest[index / values];
  const float sum = static_cast<float>(static_cast<long long>(sums[index]));
  grad_image[index] =
      most < kNotFinite ? sum * unit_of(most, room, true) : __uint_as_float(0x7fc00000u);
}

// Returns the weight of value `cell` of the field in the position at `index`.
__device__ __forceinline__ float share_of(int index, int picture, int field, int cell) {
  const Between b = between(index, picture, field);
  return b.first == cell ? 1 - b.fraction : b.second == cell ? b.fraction : 0;
}

// The positions [begin, end) that depend on value `cell`, and maybe some more at both ends.
struct Range {
  int begin, end;
};

__device__ __forceinline__ Range range_of(int picture, int field, int cell) {
  const int64_t before = cell ? int64_t(picture) * (2 * cell - 1) / field : 0;
  const int64_t after = int64_t(picture) * (2 * cell + 3) / field;
  return {static_cast<int>(max(before / 2 - 2, int64_t(0))),
          static_cast<int>(min(after / 2 + 2, int64_t(picture)))};
}

// One warp for each value of the field.
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(Sizes s, const float* slopes, float* grad_motion) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (warp >= s.batch * 2 * s.cells()) return;
  const int64_t plane = warp / s.cells();
  const int cell = static_cast<int>(warp % s.cells());
  const int row = cell / s.columns, column = cell % s.columns;
  const Range down = range_of(s.height, s.rows, row);
  const Range across = range_of(s.width, s.columns, column);
  const int width = across.end - across.begin, count = (down.end - down.begin) * width;
  slopes += plane * s.area();
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
    const int y = down.begin + i / width, x = across.begin + i % width;
    const float share =
        share_of(y, s.height, s.rows, row) * share_of(x, s.width, s.columns, column);
    if (share != 0) sum += share * slopes[static_cast<int64_t>(y) * s.width + x];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0)
    grad_motion[warp] = sum * static_cast<float>(plane % 2 ? s.height : s.width);
}

struct Backward {
  const void *grad, *image;
  const float* motion;
  float *grad_image, *grad_motion;  // null where not needed
  Sum* sums;                        // workspace like the image, if its gradient is needed
  unsigned* largest;                // workspace [B], in the same case
  float* slopes;                    // workspace [B, 2, H, W], if the field's gradient is needed
};

template <class T>
void backward(const Sizes& s, const Backward& b, cudaStream_t stream) {
  if (s.batch == 0) return;
  const dim3 blocks = blocks_of(kBackward, s.batch, s.area(), kThreads), threads(kThreads);
  const auto grad = static_cast<const T*>(b.grad), image = static_cast<const T*>(b.image);
  const int64_t total = s.batch * s.values();
  int room = 60;
  while (int64_t(1) << (60 - room) < s.area()) --room;
  if (b.grad_image) {
    const auto clear = [&](void* memory, size_t bytes) {
      check_cuda(cudaMemsetAsync(memory, 0, bytes, stream), kBackward, "cudaMemsetAsync");
    };
    clear(b.sums, total * sizeof(Sum));
    clear(b.largest, s.batch * sizeof(unsigned));
    launch(kBackward, {blocks, threads}, stream, largest_kernel<T>, s, grad, b.motion, b.largest);
  }
  launch(kBackward, {blocks, threads}, stream, spread_kernel<T>, s, grad, image, b.motion,
         static_cast<const unsigned*>(b.largest), room, b.grad_image ? b.sums : nullptr,
         b.grad_motion ? b.slopes : nullptr);
  if (b.grad_image)
    launch(kBackward, {blocks_of(kBackward, 1, total, kThreads), threads}, stream, finish_kernel,
           s.values(), total, static_cast<const Sum*>(b.sums),
           static_cast<const unsigned*>(b.largest), room, b.grad_image);
  if (b.grad_motion)
    launch(kBackward, {blocks_of(kBackward, 1, s.batch * 2 * s.cells(), kThreads / 32), threads},
           stream, reduce_kernel, s, static_cast<const float*>(b.slopes), b.grad_motion);
}

}  // namespace
}  // namespace talkinghead

#ifndef CUDA_ON_CPU
#include "warp_torch.cuh"
#endif
