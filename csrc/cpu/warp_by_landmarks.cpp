// Motion fields by moving least squares and bicubic sampling on the CPU. Formula:
// kernels/talkinghead_kernels/warp_by_landmarks.py; layouts: extension.py in the same folder.
//
// A task is a row of the result: it enlarges its row of the field into its own buffer, computes the
// sampling positions, and samples the image there, so that no field of the image's size is ever in
// memory. The gradient is computed row by row within a sample, with a sample per task: results do
// not depend on the number of threads.
#include "torch_abi.h"

#include <algorithm>
#include <memory>

#include "warp_formula.h"

namespace talkinghead {
namespace {

constexpr int64_t kLongest = 1 << 24;  // a side, so that float32 tells its pixels apart
constexpr int64_t kGrain = 1 << 19;    // minimum number of taps, or terms of distances, per thread
constexpr int64_t kPadding = 16;       // buffers end on a multiple of it, the widest vector

constexpr int64_t whole(int64_t count) { return (count + kPadding - 1) / kPadding * kPadding; }

// Computes for each of `picture` positions the two of `field` values that it lies between, and the
// fraction from the first.
struct Enlargement {
  Enlargement(int64_t picture, int64_t field)
      : first(new int32_t[whole(picture)]()),
        second(new int32_t[whole(picture)]()),
        fraction(new float[whole(picture)]()) {
    // In double, because an error is multiplied by the slope of the field.
    const double scale = static_cast<double>(field) / static_cast<double>(picture);
    for (int64_t i = 0; i < picture; ++i) {
      const double place = std::max(0.0, (static_cast<double>(i) + 0.5) * scale - 0.5);
      const int64_t below = std::min(static_cast<int64_t>(place), field - 1);
      fraction[i] = static_cast<float>(std::min(1.0, place - static_cast<double>(below)));
      // Where the fraction is 0, the other value must not contribute, even if it is not finite.
      const int64_t above = fraction[i] > 0 ? std::min(below + 1, field - 1) : below;
      first[i] = static_cast<int32_t>(below);
      second[i] = static_cast<int32_t>(above);
    }
  }
  const std::unique_ptr<int32_t[]> first, second;
  const std::unique_ptr<float[]> fraction;
};

struct Warp {
  const void *image, *grad;
  const float* motion;
  void* result;
  float *grad_image, *grad_motion;                        // null where not needed
  int64_t batch, channels, height, width, rows, columns;  // the last two: of the field
  bool channels_last;
  const Enlargement *down, *across;
};

struct Motion {
  const float* points;  // [B, count, 5]: target, source, strength
  float* motion;
  int64_t count, grid;
};

struct Kernels {
  int64_t (*scratch_size)(const Warp&);
  void (*forward)(const Warp&, int64_t sample, int64_t row, float* scratch);
  void (*backward)(const Warp&, int64_t sample, float* scratch);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/warp_by_landmarks.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "warp_positions.inl"
#include "warp_samples.inl"
#include "warp_motion.inl"

template <typename T>
constexpr Kernels kKernels = {scratch_size, forward<T>, backward<T>};

#else

namespace talkinghead {
namespace {

const Kernels& kernels_for(ScalarType dtype) {
  if (dtype == ScalarType::Float) return *SIMD_BEST(kKernels<float>);
  if (dtype == ScalarType::BFloat16) return *SIMD_BEST(kKernels<BFloat16>);
  STD_TORCH_CHECK(dtype == ScalarType::Half, "warp: image must be float32, bfloat16 or float16");
  return *SIMD_BEST(kKernels<Half>);
}

bool has_layout(const Tensor& tensor, bool channels_last) {
  const int order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};
  int64_t stride = 1;
  for (const int dim : order[channels_last]) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != stride) return false;
    stride *= tensor.size(dim);
  }
  return true;
}

// Checks what would read or write out of bounds; Python has checked the rest.
void check_like(const Tensor& tensor, const Tensor& image, ScalarType dtype, bool channels_last) {
  bool fits = tensor.dim() == 4 && tensor.scalar_type() == dtype;
  for (int dim = 0; fits && dim < 4; ++dim) fits = tensor.size(dim) == image.size(dim);
  STD_TORCH_CHECK(fits && has_layout(tensor, channels_last),
                  "warp: image, result and gradients must agree in size, dtype and memory format");
}

float* field_of(const Tensor& motion, const Tensor& image) {
  STD_TORCH_CHECK(motion.dim() == 4 && motion.size(0) == image.size(0) && motion.size(1) == 2 &&
                      motion.size(2) > 0 && motion.size(3) > 0 && motion.size(2) <= kLongest &&
                      motion.size(3) <= kLongest && motion.scalar_type() == ScalarType::Float &&
                      motion.is_contiguous(),
                  "warp: motion must be float32 [B, 2, h, w], contiguous and not empty");
  return static_cast<float*>(motion.data_ptr());
}

Warp warp_of(const Tensor& image, const Tensor& motion) {
  STD_TORCH_CHECK(image.dim() == 4 && image.size(1) > 0 && image.size(2) > 0 && image.size(3) > 0 &&
                      image.size(2) <= kLongest && image.size(3) <= kLongest,
                  "warp: image must be [B, C, H, W], not empty, of at most 2^24 rows and columns");
  Warp w = {};
  w.channels_last = !has_layout(image, false);
  check_like(image, image, image.scalar_type(), w.channels_last);
  w.image = image.data_ptr();
  w.motion = field_of(motion, image);
  w.batch = image.size(0);
  w.channels = image.size(1);
  w.height = image.size(2);
  w.width = image.size(3);
  w.rows = motion.size(2);
  w.columns = motion.size(3);
  return w;
}

void warp_forward(const Tensor& image, const Tensor& motion, Tensor result) {
  Warp w = warp_of(image, motion);
  check_like(result, image, image.scalar_type(), w.channels_last);
  w.result = result.data_ptr();
  const Enlargement down(w.height, w.rows), across(w.width, w.columns);
  w.down = &down;
  w.across = &across;
  const Kernels& kernels = kernels_for(image.scalar_type());
  const int64_t grain = std::max<int64_t>(1, kGrain / (16 * w.width * w.channels));
  torch::stable::parallel_for(0, w.batch * w.height, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[kernels.scratch_size(w)]);
    for (int64_t i = begin; i < end; ++i)
      kernels.forward(w, i / w.height, i % w.height, scratch.get());
  });
}

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& motion,
                   const std::optional<Tensor>& grad_image,
                   const std::optional<Tensor>& grad_motion) {
  Warp w = warp_of(image, motion);
  check_like(grad, image, image.scalar_type(), w.channels_last);
  w.grad = grad.data_ptr();
  if (grad_image) {
    check_like(*grad_image, image, ScalarType::Float, w.channels_last);
    w.grad_image = static_cast<float*>(grad_image->data_ptr());
  }
  if (grad_motion) {
    w.grad_motion = field_of(*grad_motion, image);
    STD_TORCH_CHECK(grad_motion->size(2) == w.rows && grad_motion->size(3) == w.columns,
                    "warp: the gradient of motion must be of its size");
  }
  const Enlargement down(w.height, w.rows), across(w.width, w.columns);
  w.down = &down;
  w.across = &across;
  const Kernels& kernels = kernels_for(image.scalar_type());
  const int64_t taps = 32 * w.channels * w.height * w.width;
  const int64_t grain = std::max<int64_t>(1, kGrain / taps);
  torch::stable::parallel_for(0, w.batch, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[kernels.scratch_size(w)]);
    for (int64_t i = begin; i < end; ++i) kernels.backward(w, i, scratch.get());
  });
}

// Returns [B, count, 5] of landmarks, then border points.
std::unique_ptr<float[]> join_points(const float* source, const float* target, int64_t batch,
                                     int64_t landmarks) {
  const int64_t count = landmarks + kBorderPoints;
  std::unique_ptr<float[]> points(new float[batch * count * 5]);
  float* next = points.get();
  for (int64_t sample = 0; sample < batch; ++sample) {
    for (int64_t i = 0; i < count; ++i, next += 5) {
      const int64_t at = 2 * (sample * landmarks + i), edge = i - landmarks;
      const float* to = edge < 0 ? target + at : kBorder[edge];
      const float* from = edge < 0 ? source + at : kBorder[edge];
      next[0] = to[0];
      next[1] = to[1];
      next[2] = from[0];
      next[3] = from[1];
      next[4] = edge < 0 ? 1.0f : kBorderStrength;
    }
  }
  return points;
}

void landmark_motion(const Tensor& source, const Tensor& target, Tensor motion) {
  for (const auto& points : {source, target})
    STD_TORCH_CHECK(points.dim() == 3 && points.size(0) == motion.size(0) &&
                        points.size(1) == source.size(1) && points.size(2) == 2 &&
                        points.scalar_type() == ScalarType::Float && points.is_contiguous(),
                    "landmark_motion: points must be float32 [B, N, 2] and contiguous");
  STD_TORCH_CHECK(motion.dim() == 4 && motion.size(1) == 2 && motion.size(2) == motion.size(3) &&
                      motion.scalar_type() == ScalarType::Float && motion.is_contiguous(),
                  "landmark_motion: motion must be float32 [B, 2, grid, grid] and contiguous");
  const int64_t batch = source.size(0), landmarks = source.size(1), grid = motion.size(2);
  const auto points = join_points(static_cast<const float*>(source.data_ptr()),
                                  static_cast<const float*>(target.data_ptr()), batch, landmarks);
  const Motion m = {points.get(), static_cast<float*>(motion.data_ptr()), landmarks + kBorderPoints,
                    grid};
  const auto run = SIMD_BEST(motion_row);
  const int64_t grain = std::max<int64_t>(1, kGrain / (8 * grid * m.count + 1));
  torch::stable::parallel_for(0, batch * grid, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> weights(new float[m.count * kPadding]);
    for (int64_t i = begin; i < end; ++i) run(m, i / grid, i % grid, weights.get());
  });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("landmark_motion", TORCH_BOX(&talkinghead::landmark_motion));
  m.impl("warp_forward", TORCH_BOX(&talkinghead::warp_forward));
  m.impl("warp_backward", TORCH_BOX(&talkinghead::warp_backward));
}

#endif
