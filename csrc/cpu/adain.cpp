// Adaptive instance normalisation on the CPU. Formula: kernels/talkinghead_kernels/adain.py;
// layouts: extension.py in the same folder.
//
// Forward and backward both compute sums over each plane, then apply them in a second pass, so they
// share their structure. Sums are computed for pieces of planes and merged in order; the second
// pass reads the plane from the cache. With channels_last the planes of a sample are processed
// together, and the second pass starts where the first ended. Pieces depend on the shape only, so
// results do not depend on the number of threads.
#include "torch_abi.h"

#include <algorithm>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace talkinghead {
namespace {

constexpr int64_t kPlanePiece = 4096;  // elements of a plane: two passes in the first-level cache
constexpr int64_t kPixelPiece =
    32768;  // elements of a channels_last sample: two passes in the second-level cache
constexpr int64_t kStreamBytes =
    1 << 20;  // an output of this size is not in a core's cache when it is read
constexpr int64_t kHugeBytes = 32 << 20;  // an allocation of this size is always fresh
constexpr int64_t kGrain = 16384;         // minimum number of elements per thread

// scale or bias: rows of C, in float or in x's dtype
struct Values {
  const void* data;
  int64_t stride;
  bool wide;
};

struct Problem {
  const void *source, *residual;  // x and residual; backward, the saved h and no residual
  const void *grad_y, *grad_h;    // backward
  void *result, *h;               // y, and h where there is a residual; backward, grad_x
  Values scale, bias;
  float *mean, *rstd;
  float *grad_scale, *grad_bias;  // backward
  int64_t batch, channels, area;
  float eps;
  bool relu, stream;

  int64_t pieces() const { return (area + kPlanePiece - 1) / kPlanePiece; }
  int64_t pixels() const { return std::max<int64_t>(1, kPixelPiece / channels); }
  int64_t pixel_pieces() const { return (area + pixels() - 1) / pixels(); }
};

// Functions of one direction and dtype. A pair is mean and sum of squared deviations; in backward,
// the sums of g and of g * (h - mean).
struct Pair {
  float first, second;
};
constexpr int64_t kSumRows = 3;  // a pair, and in forward what the rounding of the mean has lost
struct Kernels {
  int64_t element_size;
  void (*planes)(const Problem&, int64_t begin,
                 int64_t end);  // complete planes, from the first read to the last write
  void (*plane_sums)(const Problem&, int64_t plane, int64_t piece, Pair* sums);
  void (*plane_finish)(const Problem&, int64_t plane, const Pair* sums);
  void (*plane_apply)(const Problem&, int64_t plane, int64_t piece);
  // channels_last. rows: float [4, C] for values that are constant over a sample; sums: float
  // [pieces, kSumRows, C].
  void (*pixel_begin)(const Problem&, int64_t sample, float* rows);
  void (*pixel_sums)(const Problem&, int64_t sample, int64_t piece, const float* rows, float* sums);
  void (*pixel_finish)(const Problem&, int64_t sample, float* rows, const float* sums);
  void (*pixel_apply)(const Problem&, int64_t sample, int64_t piece, const float* rows);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/adain.cpp"
#include "simd.h"

#ifdef SIMD_PASS

constexpr int64_t kUnroll = 4;
constexpr int kMerged = 8;      // vectors whose moments are computed in registers
constexpr int kRows = 4;        // pixels that share the values of a channel
constexpr int64_t kGroup = 32;  // planes
constexpr int64_t kBlock =
    64;  // terms that one accumulator takes before it is added to the next; long sums lose digits

template <typename T>
SIMD_INLINE float value_at(const Values& values, int64_t sample, int64_t channel) {
  const int64_t index = sample * values.stride + channel;
  if (values.wide) return static_cast<const float*>(values.data)[index];
  return load_one(static_cast<const T*>(values.data) + index);
}

// The address of a plane's scale and bias. Planes follow each other, so that no division is needed.
struct Place {
  int64_t sample, channel;
};
SIMD_INLINE Place place_of(const Problem& p, int64_t plane) {
  return {plane / p.channels, plane % p.channels};
}
SIMD_INLINE void step(const Problem& p, Place& place) {
  if (++place.channel == p.channels) place = {place.sample + 1, 0};
}

// all lanes, or the first count of them
template <bool kWhole, typename T>
SIMD_INLINE Floats get(const T* from, int64_t count) {
  if constexpr (kWhole) return load(from);
  return load_part(from, count);
}
template <bool kWhole, typename T>
SIMD_INLINE void store_value(T* to, Floats v, int64_t count) {
  if constexpr (kWhole) {
    store(to, v);
  } else {
    store_part(to, v, count);
  }
}
template <bool kStream, typename T>
SIMD_INLINE void store_result(T* to, Floats v) {
  if constexpr (kStream) {
    stream(to, v);
  } else {
    store(to, v);
  }
}

template <bool kStream, typename T>
SIMD_INLINE void put_result2(T* to, Twin v) {
  if constexpr (kStream) {
    stream2(to, v);
  } else {
    store2(to, v);
  }
}

SIMD_INLINE int64_t piece_size(int64_t total, int64_t size, int64_t piece) {
  const int64_t remaining = total - piece * size;
  return remaining < size ? remaining : size;
}

SIMD_INLINE float rstd_of(const Problem& p, float squares) {
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(p.area) + p.eps);
}

#include "adain_forward.inl"
#include "adain_backward.inl"

template <typename T>
constexpr Kernels kForward = {sizeof(T),        forward_planes<T>,   plane_moments<T>,
                              plane_statistics, plane_normalise<T>,  pixel_nothing,
                              pixel_moments<T>, pixel_statistics<T>, pixel_forward<T>};
template <typename T>
constexpr Kernels kBackward = {sizeof(T),
                               backward_planes<T>,
                               plane_gradient_sums<T>,
                               plane_gradients,
                               plane_differentiate<T>,
                               pixel_affine<T>,
                               pixel_gradient_sums<T>,
                               pixel_gradients,
                               pixel_backward<T>};

#else

namespace talkinghead {
namespace {

// Touching the pages of a large new allocation takes longer than filling it. Request huge pages
// where Linux offers them on request.
void ask_for_large_pages([[maybe_unused]] const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t page = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + page - 1) / page * page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + tensor.numel() * tensor.element_size()) /
      page * page;
  if (end > begin && static_cast<int64_t>(end - begin) >= kHugeBytes)
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Returns whether tasks of equal size keep all threads busy.
bool shares_evenly(int64_t tasks, int64_t threads) {
  return tasks % threads == 0 || tasks >= 8 * threads;
}

void run_planes(const Problem& p, const Kernels& kernels, int64_t threads) {
  const int64_t planes = p.batch * p.channels, pieces = p.pieces();
  if (pieces == 1 || shares_evenly(planes, threads)) {
    torch::stable::parallel_for(0, planes, std::max<int64_t>(1, kGrain / p.area),
                                [&](int64_t begin, int64_t end) { kernels.planes(p, begin, end); });
    return;
  }
  const std::unique_ptr<Pair[]> sums(new Pair[planes * pieces]);
  torch::stable::parallel_for(
      0, planes * pieces, kGrain / kPlanePiece, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          kernels.plane_sums(p, i / pieces, i % pieces, sums.get() + i / pieces * pieces);
      });
  for (int64_t plane = 0; plane < planes; ++plane)
    kernels.plane_finish(p, plane, sums.get() + plane * pieces);
  torch::stable::parallel_for(0, planes * pieces, kGrain / kPlanePiece,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = end - 1; i >= begin; --i)
                                  kernels.plane_apply(p, i / pieces, i % pieces);
                              });
}

void run_pixels(const Problem& p, const Kernels& kernels, int64_t threads) {
  const int64_t pieces = p.pixel_pieces(), sample_size = p.area * p.channels;
  const int64_t scratch_size = (4 + kSumRows * pieces) * p.channels;
  if (pieces == 1 ||
      (shares_evenly(p.batch, threads) && sample_size * kernels.element_size <= (4 << 20))) {
    torch::stable::parallel_for(0, p.batch, std::max<int64_t>(1, kGrain / sample_size),
                                [&](int64_t begin, int64_t end) {
                                  const std::unique_ptr<float[]> scratch(new float[scratch_size]);
                                  float *rows = scratch.get(), *sums = rows + 4 * p.channels;
                                  for (int64_t sample = begin; sample < end; ++sample) {
                                    kernels.pixel_begin(p, sample, rows);
                                    for (int64_t piece = 0; piece < pieces; ++piece)
                                      kernels.pixel_sums(p, sample, piece, rows, sums);
                                    kernels.pixel_finish(p, sample, rows, sums);
                                    for (int64_t piece = pieces - 1; piece >= 0; --piece)
                                      kernels.pixel_apply(p, sample, piece, rows);
                                  }
                                });
    return;
  }
  const std::unique_ptr<float[]> scratch(new float[scratch_size]);
  float *rows = scratch.get(), *sums = rows + 4 * p.channels;
  for (int64_t sample = 0; sample < p.batch; ++sample) {
    kernels.pixel_begin(p, sample, rows);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece)
        kernels.pixel_sums(p, sample, piece, rows, sums);
    });
    kernels.pixel_finish(p, sample, rows, sums);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = end - 1; piece >= begin; --piece)
        kernels.pixel_apply(p, sample, piece, rows);
    });
  }
}

Values values_of(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.scalar_type() == ScalarType::Float};
}

void run(Problem& p, const Kernels& kernels, const Tensor& like) {
  p.batch = like.size(0);
  p.channels = like.size(1);
  p.area = like.size(2) * like.size(3);
  const bool planes = like.is_contiguous();
  const int64_t row = (planes ? p.area : p.channels) * kernels.element_size,
                bytes = p.batch * p.channels * p.area * kernels.element_size;
  p.stream = bytes >= kStreamBytes && row % 64 == 0 &&
             reinterpret_cast<uintptr_t>(p.result) % 64 == 0 &&
             reinterpret_cast<uintptr_t>(p.h) % 64 == 0;
  const int64_t threads = torch::stable::get_num_threads();
  planes ? run_planes(p, kernels, threads) : run_pixels(p, kernels, threads);
}

const Kernels& kernels_for(ScalarType dtype, bool forward) {
  if (dtype == ScalarType::Float)
    return *(forward ? SIMD_BEST(kForward<float>) : SIMD_BEST(kBackward<float>));
  if (dtype == ScalarType::BFloat16)
    return *(forward ? SIMD_BEST(kForward<BFloat16>) : SIMD_BEST(kBackward<BFloat16>));
  STD_TORCH_CHECK(dtype == ScalarType::Half, "adain: x must be float32, bfloat16 or float16");
  return *(forward ? SIMD_BEST(kForward<Half>) : SIMD_BEST(kBackward<Half>));
}

// Checks what would read or write out of bounds; Python has checked the rest.
void check(const Tensor& like, const std::optional<Tensor>& tensor) {
  if (!tensor) return;
  STD_TORCH_CHECK(tensor->dim() == 4 && tensor->numel() == like.numel() &&
                      tensor->scalar_type() == like.scalar_type() &&
                      tensor->is_contiguous() == like.is_contiguous(),
                  "adain: tensors must agree in size, dtype and memory format");
}

void check_values(const Tensor& like, const Tensor& values) {
  STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == like.size(0) &&
                      values.size(1) == like.size(1) &&
                      (values.scalar_type() == ScalarType::Float ||
                       values.scalar_type() == like.scalar_type()) &&
                      (values.stride(1) == 1 || values.size(1) == 1),
                  "adain: scale, bias and statistics must be [B, C] with second stride 1");
}

void check_rows(const Tensor& like, const Tensor& values) {
  check_values(like, values);
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Float && values.is_contiguous(),
                  "adain: statistics must be float32 and contiguous");
}

void adain_forward(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& scale,
                   const Tensor& bias, double eps, bool relu, Tensor y,
                   const std::optional<Tensor>& h, Tensor mean, Tensor rstd) {
  for (const auto& tensor : {residual, std::optional<Tensor>(y), h}) check(x, tensor);
  STD_TORCH_CHECK(residual.has_value() == h.has_value(), "adain: residual and h go together");
  for (const auto& values : {scale, bias}) check_values(x, values);
  for (const auto& values : {mean, rstd}) check_rows(x, values);
  Problem p = {};
  p.source = x.data_ptr();
  p.result = y.data_ptr();
  ask_for_large_pages(y);
  if (residual) {
    p.residual = residual->data_ptr();
    p.h = h->data_ptr();
    ask_for_large_pages(*h);
  }
  p.scale = values_of(scale);
  p.bias = values_of(bias);
  p.mean = static_cast<float*>(mean.data_ptr());
  p.rstd = static_cast<float*>(rstd.data_ptr());
  p.eps = static_cast<float>(eps);
  p.relu = relu;
  run(p, kernels_for(x.scalar_type(), true), x);
}

void adain_backward(const Tensor& grad_y, const std::optional<Tensor>& grad_h, const Tensor& h,
                    const Tensor& scale, const Tensor& bias, const Tensor& mean, const Tensor& rstd,
                    bool relu, Tensor grad_x, Tensor grad_scale, Tensor grad_bias) {
  for (const auto& tensor : {std::optional<Tensor>(grad_y), grad_h, std::optional<Tensor>(grad_x)})
    check(h, tensor);
  for (const auto& values : {scale, bias}) check_values(h, values);
  for (const auto& values : {mean, rstd, grad_scale, grad_bias}) check_rows(h, values);
  Problem p = {};
  p.source = h.data_ptr();
  p.grad_y = grad_y.data_ptr();
  p.grad_h = grad_h ? grad_h->data_ptr() : nullptr;
  p.result = grad_x.data_ptr();
  ask_for_large_pages(grad_x);
  p.scale = values_of(scale);
  p.bias = values_of(bias);
  p.mean = static_cast<float*>(mean.data_ptr());
  p.rstd = static_cast<float*>(rstd.data_ptr());
  p.grad_scale = static_cast<float*>(grad_scale.data_ptr());
  p.grad_bias = static_cast<float*>(grad_bias.data_ptr());
  p.relu = relu;
  run(p, kernels_for(h.scalar_type(), false), h);
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("adain_forward", TORCH_BOX(&talkinghead::adain_forward));
  m.impl("adain_backward", TORCH_BOX(&talkinghead::adain_backward));
}

#endif
