// Batches of anti-aliased polylines on CUDA. Formula: kernels/talkinghead_kernels/rasterize.py.
//
// A block draws a tile of one image. It first collects the segments that can reach the tile, in
// order, in shared memory; each thread then applies them to four pixels of a row. The arithmetic is
// that of the reference, operation by operation: no multiplication is fused with an addition, so
// that the distances of points far outside, which cancel, are equal.
#include "cuda_launch.h"

#include <algorithm>
#include <vector>

namespace talkinghead {
namespace {

constexpr int kSegments = 256,
              kParts =
                  64;  // in a table that travels by value as a kernel's parameter, of 4 KB at most
constexpr int kTileWidth = 32, kTileHeight = 16, kPixels = 4;
constexpr int kThreads = kTileWidth / kPixels * kTileHeight;

struct Table {
  int starts[kSegments], ends[kSegments];  // indices of points
  uint8_t parts[kSegments];                // ascending
  uint8_t colours[kParts][3];
  int count;
};

struct Picture {
  const float* points;
  float* image;
  int points_per_image, size, tiles_across;
  float reach;  // radius + 0.5: coverage is 0 at this distance
};
static_assert(sizeof(Table) + sizeof(Picture) <= 4096);

struct Segment {
  float x, y, dx, dy, x_per_length, y_per_length;  // per squared length, as the reference divides
  int part;
};

#ifdef CUDA_ON_CPU
float times(float a, float b) { return a * b; }
float plus(float a, float b) { return a + b; }
float minus(float a, float b) { return a - b; }
#else
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float minus(float a, float b) { return __fsub_rn(a, b); }
#endif

__device__ inline Segment segment_between(float ax, float ay, float bx, float by, int part) {
  const float dx = minus(bx, ax), dy = minus(by, ay);
  const float squared = plus(times(dx, dx), times(dy, dy));
  const float length = squared < 1e-12f ? 1e-12f : squared;  // a segment of no length is a point
  return {ax, ay, dx, dy, dx / length, dy / length, part};
}

__device__ inline float squared_distance(const Segment& segment, float px, float py) {
  const float x = minus(px, segment.x), y = minus(py, segment.y);
  const float along = plus(times(x, segment.x_per_length), times(y, segment.y_per_length));
  const float t = along < 0 ? 0.f : along > 1 ? 1.f : along;
  const float right = minus(x, times(t, segment.dx)), down = minus(y, times(t, segment.dy));
  return plus(times(right, right), times(down, down));
}

struct Shared {
  Segment segments[kSegments];
  int count;
};

constexpr float kFar = 1e4f;  // pixels; segments that end farther away, or at NaN, are not drawn

__device__ inline bool is_near(const float* point) {
  return fabsf(point[0]) <= kFar && fabsf(point[1]) <= kFar;
}

// Collects the segments that may be visible in the tile.
__device__ void keep_near(const Table& table, const Picture& picture, float left, float top,
                          Shared& shared) {
  const float* points =
      picture.points + static_cast<int64_t>(blockIdx.y) * picture.points_per_image * 2;
  // Distance from the middle of the pixel centres to their corner.
  const float half_width = (kTileWidth - 1) * 0.5f, half_height = (kTileHeight - 1) * 0.5f;
  const float corner = sqrtf(half_width * half_width + half_height * half_height);
  int count = 0;
  for (int first = 0; first < table.count; first += 32) {
    const int index = first + static_cast<int>(threadIdx.x);
    bool near = false;
    Segment segment = {};
    if (index < table.count) {
      const float* a = points + 2 * table.starts[index];
      const float* b = points + 2 * table.ends[index];
      segment = segment_between(a[0], a[1], b[0], b[1], table.parts[index]);
      const float rounding =
          1e-5f * fabsf(a[0]) + 1e-5f * fabsf(a[1]) + 1e-5f * fabsf(b[0]) + 1e-5f * fabsf(b[1]);
      const float far = picture.reach + corner + 0.5f + rounding;
      near = squared_distance(segment, left + 0.5f + half_width, top + 0.5f + half_height) <=
                 far * far &&
             is_near(a) && is_near(b);
    }
    const unsigned all = __ballot_sync(0xffffffffu, near);
    if (near) shared.segments[count + __popc(all & ((1u << threadIdx.x) - 1))] = segment;
    count += __popc(all);
  }
  if (threadIdx.x == 0) shared.count = count;
}

__device__ inline void paint(const Table& table, int part, float reach,
                             const float (&squared)[kPixels], float (&image)[3][kPixels]) {
#pragma unroll
  for (int k = 0; k < kPixels; ++k) {
    const float seen = minus(reach, sqrtf(squared[k]));
    const float coverage = seen > 1 ? 1.f : seen > 0 ? seen : 0.f;
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
      const float colour = table.colours[part][channel] / 255.f;
      image[channel][k] =
          plus(image[channel][k], times(coverage, minus(colour, image[channel][k])));
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    draw_kernel(const __grid_constant__ Table table, const __grid_constant__ Picture picture) {
  TALKINGHEAD_SHARED(Shared, all, 1);
  Shared& shared = all[0];
  const int tile_left = static_cast<int>(blockIdx.x) % picture.tiles_across * kTileWidth;
  const int tile_top = static_cast<int>(blockIdx.x) / picture.tiles_across * kTileHeight;
  if (threadIdx.x < 32)
    keep_near(table, picture, static_cast<float>(tile_left), static_cast<float>(tile_top), shared);
  __syncthreads();
  constexpr int kAcross = kTileWidth / kPixels;
  const int size = picture.size,
            left = tile_left + static_cast<int>(threadIdx.x) % kAcross * kPixels;
  const int top = tile_top + static_cast<int>(threadIdx.x) / kAcross;
  if (left >= size || top >= size) return;
  float image[3][kPixels] = {}, squared[kPixels];
  const float y = static_cast<float>(top) + 0.5f;
  for (int index = 0; index < shared.count;) {
    const int part = shared.segments[index].part;
#pragma unroll
    for (int k = 0; k < kPixels; ++k) squared[k] = INFINITY;
    for (; index < shared.count && shared.segments[index].part == part; ++index) {
      const Segment segment = shared.segments[index];
#pragma unroll
      for (int k = 0; k < kPixels; ++k) {
        const float distance = squared_distance(segment, static_cast<float>(left + k) + 0.5f, y);
        if (distance < squared[k]) squared[k] = distance;
      }
    }
    paint(table, part, picture.reach, squared, image);
  }
  const int64_t plane = static_cast<int64_t>(size) * size;
  float* out = picture.image + blockIdx.y * 3 * plane + static_cast<int64_t>(top) * size + left;
  const bool whole = size % kPixels == 0 && reinterpret_cast<uintptr_t>(picture.image) % 16 == 0;
#pragma unroll
  for (int channel = 0; channel < 3; ++channel, out += plane) {
    float value[kPixels];
#pragma unroll
    for (int k = 0; k < kPixels; ++k) value[k] = minus(image[channel][k] * 2, 1);
    if (whole) {
      *reinterpret_cast<float4*>(out) = make_float4(value[0], value[1], value[2], value[3]);
    } else {
#pragma unroll
      for (int k = 0; k < kPixels; ++k) {
        if (left + k < size) out[k] = value[k];
      }
    }
  }
}

// points [batch, points_per_image, 2]; `indices` holds the parts in sequence.
void draw(const float* points, int64_t batch, int64_t points_per_image, int64_t size,
          const std::vector<int64_t>& indices, const std::vector<int64_t>& lengths,
          const std::vector<int64_t>& colours, float* image, cudaStream_t stream) {
  constexpr const char* op = "draw_polylines";
  const auto refuse = [&](const char* what, size_t got, int most) {
    throw std::runtime_error(std::string(op) + ": the CUDA kernel draws at most " +
                             std::to_string(most) + " " + what + ", got " + std::to_string(got) +
                             "; draw in several calls or choose another backend");
  };
  if (lengths.size() > kParts) refuse("parts", lengths.size(), kParts);
  Table table = {};
  size_t at = 0, segments = 0;
  for (const int64_t length : lengths) segments += length > 0 ? length - 1 : 0;
  if (segments > kSegments) refuse("segments", segments, kSegments);
  for (size_t part = 0; part < lengths.size(); ++part) {
    for (int64_t i = 0; i + 1 < lengths[part]; ++i) {
      table.starts[table.count] = static_cast<int>(indices[at + i]);
      table.ends[table.count] = static_cast<int>(indices[at + i + 1]);
      table.parts[table.count++] = static_cast<uint8_t>(part);
    }
    at += lengths[part];
    for (int channel = 0; channel < 3; ++channel)
      table.colours[part][channel] = static_cast<uint8_t>(colours[3 * part + channel]);
  }
  const float reach = static_cast<float>(std::max(1.0, static_cast<double>(size) / 256) + 0.5);
  const int across = static_cast<int>((size + kTileWidth - 1) / kTileWidth);
  const int down = static_cast<int>((size + kTileHeight - 1) / kTileHeight);
  constexpr int64_t kBatch = 65535;  // maximum of a grid along y
  for (int64_t first = 0; first < batch; first += kBatch) {
    const Picture picture = {points + first * points_per_image * 2,
                             image + first * 3 * size * size,
                             static_cast<int>(points_per_image),
                             static_cast<int>(size),
                             across,
                             reach};
    const dim3 grid(static_cast<unsigned>(across) * down,
                    static_cast<unsigned>(std::min(kBatch, batch - first)));
    launch(op, {grid, dim3(kThreads)}, stream, draw_kernel, table, picture);
  }
}

}  // namespace
}  // namespace talkinghead

#ifndef CUDA_ON_CPU
namespace talkinghead {
namespace {

void draw_polylines(const Tensor points, const std::vector<int64_t> indices,
                    const std::vector<int64_t> lengths, const std::vector<int64_t> colours,
                    Tensor image) {
  constexpr const char* op = "draw_polylines";
  const auto fits = [&](const Tensor& tensor, int64_t dims) {
    return tensor.scalar_type() == ScalarType::Float && tensor.is_cuda() &&
           tensor.is_contiguous() && tensor.dim() == dims;
  };
  STD_TORCH_CHECK(fits(points, 3) && points.size(2) == 2, op,
                  ": points must be float32 [B, N, 2], contiguous, on CUDA");
  const int64_t batch = points.size(0), count = points.size(1);
  STD_TORCH_CHECK(
      fits(image, 4) && image.size(0) == batch && image.size(1) == 3 &&
          image.size(2) == image.size(3) && image.get_device_index() == points.get_device_index(),
      op, ": image must be float32 [B, 3, size, size], contiguous, on the device of points");
  STD_TORCH_CHECK(count < (1 << 30) && image.size(2) < (1 << 18), op,
                  ": more than 2^30 points, or an image wider than 2^18");
  int64_t named = 0;
  for (const int64_t length : lengths) {
    STD_TORCH_CHECK(length >= 0, op, ": lengths must not be negative");
    named += length;
  }
  STD_TORCH_CHECK(named == int64_t(indices.size()) && colours.size() == 3 * lengths.size(), op,
                  ": parts, lengths and colours do not fit");
  for (const int64_t index : indices) {
    STD_TORCH_CHECK(0 <= index && index < count, op, ": an index into the points is ", index,
                    " of ", count);
  }
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  draw(static_cast<const float*>(points.data_ptr()), batch, count, image.size(2), indices, lengths,
       colours, static_cast<float*>(image.data_ptr()), current_stream(points.get_device_index()));
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CUDA, m) {
  m.impl("draw_polylines", TORCH_BOX(&talkinghead::draw_polylines));
}
#endif
