// Adaptive instance normalisation on the CPU. Formula: kernels/talkinghead_kernels/adain.py; layouts: native.py beside it.
//
// Both directions are a sum over each plane and then a pass that applies it, so both run the same way. The sums are taken of pieces and
// merged in order; the second pass finds the plane in the cache. With channels_last a sample's planes go together, and its second pass
// starts where the first ended. Pieces are fixed by the shape alone: results do not depend on the number of threads.
#include "common.h"

#include <algorithm>
#include <memory>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace talkinghead {
namespace {

constexpr int64_t kPlanePiece = 4096;  // elements of a plane: two passes in the first-level cache
constexpr int64_t kPixelPiece = 32768;  // elements of a channels_last sample: two passes in the second-level cache
constexpr int64_t kStreamBytes = 16 << 20;  // an output of this size is not in the cache when it is read
constexpr int64_t kHugeBytes = 4 << 20;
constexpr int64_t kGrain = 16384;  // elements that are worth a thread

// scale or bias: rows of C, in float or in x's dtype
struct Values {
  const void* data;
  int64_t stride;
  bool wide;
};

struct Problem {
  const void *source, *residual;  // x and residual; backward, the saved h and no residual
  const void *grad_y, *grad_h;  // backward
  void *result, *h;  // y, and h where there is a residual; backward, grad_x
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

// Of one direction and dtype. Pair: mean and sum of squared distances from it; backward, the sums of g and of g * (h - mean).
struct Pair {
  float first, second;
};
struct Kernels {
  int64_t element_size;
  void (*planes)(const Problem&, int64_t begin, int64_t end);  // whole planes, from the first read to the last write
  void (*plane_sums)(const Problem&, int64_t plane, int64_t piece, Pair* sums);
  void (*plane_finish)(const Problem&, int64_t plane, const Pair* sums);
  void (*plane_apply)(const Problem&, int64_t plane, int64_t piece);
  // channels_last; rows: float [4, C] for what is constant over a sample; sums: float [pieces, 2, C]
  void (*pixel_begin)(const Problem&, int64_t sample, float* rows);
  void (*pixel_sums)(const Problem&, int64_t sample, int64_t piece, const float* rows, float* sums);
  void (*pixel_finish)(const Problem&, int64_t sample, float* rows, const float* sums);
  void (*pixel_apply)(const Problem&, int64_t sample, int64_t piece, const float* rows);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "adain_cpu.cpp"
#include "simd.h"

#ifdef SIMD_PASS

constexpr int64_t kUnroll = 4;
constexpr int64_t kGroup = 32;  // planes
constexpr int64_t kBlock = 64;  // terms that one accumulator takes before it is added to the next; long sums lose digits

template <typename T>
SIMD_INLINE float value_at(const Values& values, int64_t sample, int64_t channel) {
  const int64_t index = sample * values.stride + channel;
  if (values.wide) return static_cast<const float*>(values.data)[index];
  return load_part(static_cast<const T*>(values.data) + index, 1)[0];
}

// all lanes, or the first count of them
template <bool kWhole, typename T>
SIMD_INLINE Floats get(const T* from, int64_t count) {
  if constexpr (kWhole) return load(from);
  return load_part(from, count);
}
template <bool kWhole, typename T>
SIMD_INLINE void put(T* to, Floats v, int64_t count) {
  if constexpr (kWhole) {
    store(to, v);
  } else {
    store_part(to, v, count);
  }
}
template <bool kStream, typename T>
SIMD_INLINE void put_result(T* to, Floats v) {
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
  const int64_t left = total - piece * size;
  return left < size ? left : size;
}

// one vector of h: x, or x + residual, rounded and kept
template <bool kWhole, bool kResidual, typename T>
SIMD_INLINE Floats take(const T* x, const T* residual, T* h, int64_t count) {
  if constexpr (!kResidual) return get<kWhole>(x, count);
  put<kWhole>(h, get<kWhole>(x, count) + get<kWhole>(residual, count), count);
  return get<kWhole>(h, count);
}

SIMD_INLINE float rstd_of(const Problem& p, float squares) {
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(p.area) + p.eps);
}

// ---- forward, planes

template <bool kResidual, typename T>
SIMD_INLINE Twin take2(const T* x, const T* residual, T* h) {
  if constexpr (!kResidual) return load2(x);
  const Twin a = load2(x), b = load2(residual);
  store2(h, {a.first + b.first, a.second + b.second});
  return load2(h);
}

template <bool kResidual, typename T>
SIMD_INLINE float mean_of(const T* x, const T* residual, T* h, int64_t count) {
  Floats sums[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; k += 2) {
      const int64_t at = i + k * kLanes;
      const Twin v = take2<kResidual>(x + at, residual + at, h + at);
      sums[k] += v.first;
      sums[k + 1] += v.second;
    }
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] += take<true, kResidual>(x + i, residual + i, h + i, kLanes);
  if (i < count) sums[1] += take<false, kResidual>(x + i, residual + i, h + i, count - i);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(count);
}

// The sum of the distances from the mean corrects what rounding left in it.
template <typename T>
SIMD_INLINE Pair moments_about(float mean, const T* source, int64_t count) {
  Floats distances[kUnroll] = {}, squares[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; k += 2) {
      const Twin v = load2(source + i + k * kLanes);
      const Floats first = v.first - mean, second = v.second - mean;
      distances[k] += first;
      squares[k] += first * first;
      distances[k + 1] += second;
      squares[k + 1] += second * second;
    }
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i;
    const Floats distance = left >= kLanes ? load(source + i) - mean : where(first_lanes(left), load_part(source + i, left) - mean, Floats{});
    distances[0] += distance;
    squares[0] += distance * distance;
  }
  const float rest = sum((distances[0] + distances[1]) + (distances[2] + distances[3]));
  const float correction = rest / static_cast<float>(count);
  return {mean + correction, sum((squares[0] + squares[1]) + (squares[2] + squares[3])) - rest * correction};
}

template <typename T>
SIMD_INLINE float piece_mean(const Problem& p, int64_t plane, int64_t piece) {
  const int64_t start = plane * p.area + piece * kPlanePiece, count = piece_size(p.area, kPlanePiece, piece);
  const T* x = static_cast<const T*>(p.source) + start;
  if (!p.residual) return mean_of<false, T>(x, nullptr, nullptr, count);
  return mean_of<true>(x, static_cast<const T*>(p.residual) + start, static_cast<T*>(p.h) + start, count);
}

template <typename T>
SIMD_INLINE Pair piece_moments_about(float mean, const Problem& p, int64_t plane, int64_t piece) {
  const T* source = static_cast<const T*>(p.residual ? p.h : p.source) + plane * p.area + piece * kPlanePiece;
  return moments_about(mean, source, piece_size(p.area, kPlanePiece, piece));
}

template <typename T>
void plane_moments(const Problem& p, int64_t plane, int64_t piece, Pair* sums) {
  sums[piece] = piece_moments_about<T>(piece_mean<T>(p, plane, piece), p, plane, piece);
}

// Merges the moments of a plane's pieces (Chan et al. 1979).
inline void plane_statistics(const Problem& p, int64_t plane, const Pair* sums) {
  float mean = sums[0].first, squares = sums[0].second;
  for (int64_t piece = 1; piece < p.pieces(); ++piece) {
    const float before = static_cast<float>(piece * kPlanePiece), added = static_cast<float>(piece_size(p.area, kPlanePiece, piece));
    const float distance = sums[piece].first - mean, share = added / (before + added);
    mean += distance * share;
    squares += sums[piece].second + distance * distance * share * before;
  }
  p.mean[plane] = mean;
  p.rstd[plane] = rstd_of(p, squares);
}

template <bool kStream, typename T>
SIMD_INLINE void normalise(const Problem& p, int64_t plane, int64_t begin, int64_t count) {
  const int64_t start = plane * p.area + begin, sample = plane / p.channels, channel = plane % p.channels;
  const T* h = static_cast<const T*>(p.residual ? p.h : p.source) + start;
  T* y = static_cast<T*>(p.result) + start;
  const Floats mean = splat(p.mean[plane]), scale = splat(value_at<T>(p.scale, sample, channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, sample, channel)), floor = splat(p.relu ? 0.0f : -__builtin_inff());
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Twin v = load2(h + i);
    put_result2<kStream>(
        y + i, {at_least(floor, (v.first - mean) * scale + bias), at_least(floor, (v.second - mean) * scale + bias)});
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i;
    const Floats v = ((left >= kLanes ? load(h + i) : load_part(h + i, left)) - mean) * scale + bias;
    if (left >= kLanes) {
      put_result<kStream>(y + i, at_least(floor, v));
    } else {
      store_part(y + i, at_least(floor, v), left);
    }
  }
}

template <typename T>
void plane_normalise(const Problem& p, int64_t plane, int64_t piece) {
  normalise<false, T>(p, plane, piece * kPlanePiece, piece_size(p.area, kPlanePiece, piece));
}

// Small planes go in groups, a step for all before the next: steps of one plane wait for each other, those of a group do not.
template <typename T>
SIMD_INLINE void small_plane_statistics(const Problem& p, int64_t begin, int64_t end) {
  Pair sums[kGroup];
  for (int64_t plane = begin; plane < end; ++plane) sums[plane - begin].first = piece_mean<T>(p, plane, 0);
  for (int64_t plane = begin; plane < end; ++plane) {
    sums[plane - begin] = piece_moments_about<T>(sums[plane - begin].first, p, plane, 0);
  }
  for (int64_t plane = begin; plane < end; ++plane) plane_statistics(p, plane, sums + (plane - begin));
}

template <typename T>
void forward_planes(const Problem& p, int64_t begin, int64_t end) {
  const int64_t pieces = p.pieces();
  const int64_t fitting = kPlanePiece / p.area, group = fitting < 1 ? 1 : fitting < kGroup ? fitting : kGroup;
  const std::unique_ptr<Pair[]> sums(new Pair[pieces]);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = first + group < end ? first + group : end;
    if (pieces == 1) {
      small_plane_statistics<T>(p, first, last);
    } else {
      for (int64_t piece = 0; piece < pieces; ++piece) plane_moments<T>(p, first, piece, sums.get());
      plane_statistics(p, first, sums.get());
    }
    for (int64_t plane = first; plane < last; ++plane) {
      p.stream ? normalise<true, T>(p, plane, 0, p.area) : normalise<false, T>(p, plane, 0, p.area);
    }
  }
  if (p.stream) stream_end();
}

// ---- forward, channels_last; rows: scale * rstd, bias

template <int kVectors, bool kWhole, bool kResidual, typename T>
SIMD_INLINE void column_moments(const Problem& p, int64_t start, int64_t pixels, int64_t count, float* means, float* squares) {
  const T* x = static_cast<const T*>(p.source) + start;
  const T* residual = static_cast<const T*>(p.residual) + (kResidual ? start : 0);
  T* h = static_cast<T*>(p.h) + (kResidual ? start : 0);
  const T* source = kResidual ? h : x;
  const float share = 1.0f / static_cast<float>(pixels);
  Floats mean[kVectors] = {}, rest[kVectors] = {}, square[kVectors] = {};
  for (int64_t first = 0; first < pixels; first += kBlock) {
    Floats total[kVectors] = {};
    for (int64_t pixel = first; pixel < pixels && pixel < first + kBlock; ++pixel) {
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        const int64_t at = pixel * p.channels + k * kLanes;
        total[k] += take<kWhole, kResidual>(x + at, residual + at, h + at, count);
      }
    }
    for (int k = 0; k < kVectors; ++k) mean[k] += total[k] * share;
  }
  for (int64_t first = 0; first < pixels; first += kBlock) {
    Floats total[kVectors] = {}, squares_of[kVectors] = {};
    for (int64_t pixel = first; pixel < pixels && pixel < first + kBlock; ++pixel) {
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        const Floats distance = get<kWhole>(source + pixel * p.channels + k * kLanes, count) - mean[k];
        total[k] += distance;
        squares_of[k] += distance * distance;
      }
    }
    for (int k = 0; k < kVectors; ++k) {
      rest[k] += total[k];
      square[k] += squares_of[k];
    }
  }
  for (int k = 0; k < kVectors; ++k) {
    put<kWhole>(means + k * kLanes, mean[k] + rest[k] * share, count);
    put<kWhole>(squares + k * kLanes, square[k] - rest[k] * rest[k] * share, count);
  }
}

template <bool kResidual, typename T>
SIMD_INLINE void row_moments(const Problem& p, int64_t start, int64_t pixels, float* sums) {
  int64_t c = 0;
  for (; c + kUnroll * kLanes <= p.channels; c += kUnroll * kLanes) {
    column_moments<kUnroll, true, kResidual, T>(p, start + c, pixels, kLanes, sums + c, sums + p.channels + c);
  }
  for (; c + kLanes <= p.channels; c += kLanes) {
    column_moments<1, true, kResidual, T>(p, start + c, pixels, kLanes, sums + c, sums + p.channels + c);
  }
  if (c < p.channels) {
    column_moments<1, false, kResidual, T>(p, start + c, pixels, p.channels - c, sums + c, sums + p.channels + c);
  }
}

template <typename T>
void pixel_moments(const Problem& p, int64_t sample, int64_t piece, const float*, float* sums) {
  const int64_t start = (sample * p.area + piece * p.pixels()) * p.channels, pixels = piece_size(p.area, p.pixels(), piece);
  sums += piece * 2 * p.channels;
  if (p.residual) {
    row_moments<true, T>(p, start, pixels, sums);
  } else {
    row_moments<false, T>(p, start, pixels, sums);
  }
}

template <typename T>
void pixel_statistics(const Problem& p, int64_t sample, float* rows, const float* sums) {
  const int64_t channels = p.channels;
  float *mean = p.mean + sample * channels, *squares = p.rstd + sample * channels;
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = sums[c];
    squares[c] = sums[channels + c];
  }
  for (int64_t piece = 1; piece < p.pixel_pieces(); ++piece) {
    const float before = static_cast<float>(piece * p.pixels()), added = static_cast<float>(piece_size(p.area, p.pixels(), piece));
    const float share = added / (before + added);
    const float *means = sums + piece * 2 * channels, *more = means + channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float distance = means[c] - mean[c];
      mean[c] += distance * share;
      squares[c] += more[c] + distance * distance * share * before;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    squares[c] = rstd_of(p, squares[c]);
    rows[c] = value_at<T>(p.scale, sample, c) * squares[c];
    rows[channels + c] = value_at<T>(p.bias, sample, c);
  }
}

template <bool kStream, typename T>
SIMD_INLINE void pixel_normalise(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  const int64_t channels = p.channels, first = sample * p.area + piece * p.pixels(), pixels = piece_size(p.area, p.pixels(), piece);
  const float *mean = p.mean + sample * channels, *scale = rows, *bias = rows + channels;
  const Floats floor = splat(p.relu ? 0.0f : -__builtin_inff());
  for (int64_t pixel = first; pixel < first + pixels; ++pixel) {
    const T* h = static_cast<const T*>(p.residual ? p.h : p.source) + pixel * channels;
    T* y = static_cast<T*>(p.result) + pixel * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Floats v = (load(h + c) - load(mean + c)) * load(scale + c) + load(bias + c);
      put_result<kStream>(y + c, at_least(floor, v));
    }
    if (c < channels) {
      const int64_t left = channels - c;
      const Floats v = (load_part(h + c, left) - load_part(mean + c, left)) * load_part(scale + c, left) + load_part(bias + c, left);
      store_part(y + c, at_least(floor, v), left);
    }
  }
}

template <typename T>
void pixel_forward(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  if (p.stream) {
    pixel_normalise<true, T>(p, sample, piece, rows);
    stream_end();
  } else {
    pixel_normalise<false, T>(p, sample, piece, rows);
  }
}

inline void pixel_nothing(const Problem&, int64_t, float*) {}

// ---- backward, planes

// g: the gradient before the activation
template <bool kRelu>
SIMD_INLINE Floats masked(Floats grad, Floats distance, Floats scale, Floats bias) {
  if constexpr (!kRelu) return grad;
  return where(distance * scale + bias <= 0.0f, Floats{}, grad);
}

template <bool kRelu, typename T>
SIMD_INLINE Pair block_gradient_sums(const T* grad, const T* h, int64_t count, Floats mean, Floats scale, Floats bias) {
  Floats sums[kUnroll] = {}, products[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; k += 2) {
      const Twin v = load2(h + i + k * kLanes), grads = load2(grad + i + k * kLanes);
      const Floats first = v.first - mean, second = v.second - mean;
      const Floats g = masked<kRelu>(grads.first, first, scale, bias), more = masked<kRelu>(grads.second, second, scale, bias);
      sums[k] += g;
      products[k] += g * first;
      sums[k + 1] += more;
      products[k + 1] += more * second;
    }
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i;
    const bool whole = left >= kLanes;
    const Floats distance = (whole ? load(h + i) : load_part(h + i, left)) - mean;
    const Floats g = masked<kRelu>(whole ? load(grad + i) : load_part(grad + i, left), distance, scale, bias);
    sums[0] += g;
    products[0] += g * distance;
  }
  return {sum((sums[0] + sums[1]) + (sums[2] + sums[3])), sum((products[0] + products[1]) + (products[2] + products[3]))};
}

template <bool kRelu, typename T>
SIMD_INLINE Pair gradient_sums(const T* grad, const T* h, int64_t count, Floats mean, Floats scale, Floats bias) {
  constexpr int64_t block = kBlock * kUnroll * kLanes;
  Pair total = {};
  for (int64_t i = 0; i < count; i += block) {
    const int64_t left = count - i;
    const Pair sums = block_gradient_sums<kRelu>(grad + i, h + i, left < block ? left : block, mean, scale, bias);
    total.first += sums.first;
    total.second += sums.second;
  }
  return total;
}

template <typename T>
void plane_gradient_sums(const Problem& p, int64_t plane, int64_t piece, Pair* sums) {
  const int64_t start = plane * p.area + piece * kPlanePiece, count = piece_size(p.area, kPlanePiece, piece);
  const int64_t sample = plane / p.channels, channel = plane % p.channels;
  const Floats mean = splat(p.mean[plane]), scale = splat(value_at<T>(p.scale, sample, channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, sample, channel));
  const T *grad = static_cast<const T*>(p.grad_y) + start, *h = static_cast<const T*>(p.source) + start;
  sums[piece] = p.relu ? gradient_sums<true>(grad, h, count, mean, scale, bias) : gradient_sums<false>(grad, h, count, mean, scale, bias);
}

inline void plane_gradients(const Problem& p, int64_t plane, const Pair* sums) {
  float first = 0, second = 0;
  for (int64_t piece = 0; piece < p.pieces(); ++piece) {
    first += sums[piece].first;
    second += sums[piece].second;
  }
  p.grad_bias[plane] = first;
  p.grad_scale[plane] = second * p.rstd[plane];
}

template <bool kRelu, bool kGradH, bool kStream, typename T>
SIMD_INLINE void differentiate(const Problem& p, int64_t plane, int64_t begin, int64_t count) {
  const int64_t start = plane * p.area + begin, sample = plane / p.channels, channel = plane % p.channels;
  const T *grad = static_cast<const T*>(p.grad_y) + start, *h = static_cast<const T*>(p.source) + start;
  const T* more = kGradH ? static_cast<const T*>(p.grad_h) + start : nullptr;
  T* result = static_cast<T*>(p.result) + start;
  const float share = 1.0f / static_cast<float>(p.area);
  const Floats mean = splat(p.mean[plane]), scale = splat(value_at<T>(p.scale, sample, channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, sample, channel));
  const Floats level = splat(p.grad_bias[plane] * share), slope = splat(p.grad_scale[plane] * share * p.rstd[plane]);
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Twin v = load2(h + i), grads = load2(grad + i);
    const Floats first = v.first - mean, second = v.second - mean;
    Twin d = {
        scale * (masked<kRelu>(grads.first, first, scale, bias) - level - first * slope),
        scale * (masked<kRelu>(grads.second, second, scale, bias) - level - second * slope)};
    if constexpr (kGradH) {
      const Twin added = load2(more + i);
      d = {d.first + added.first, d.second + added.second};
    }
    put_result2<kStream>(result + i, d);
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i < kLanes ? count - i : kLanes;
    const Floats distance = load_part(h + i, left) - mean;
    const Floats g = masked<kRelu>(load_part(grad + i, left), distance, scale, bias);
    Floats v = scale * (g - level - distance * slope);
    if constexpr (kGradH) v += load_part(more + i, left);
    store_part(result + i, v, left);
  }
}

template <bool kStream, typename T>
SIMD_INLINE void differentiate_any(const Problem& p, int64_t plane, int64_t begin, int64_t count) {
  if (p.relu) {
    p.grad_h ? differentiate<true, true, kStream, T>(p, plane, begin, count) : differentiate<true, false, kStream, T>(p, plane, begin, count);
  } else {
    p.grad_h ? differentiate<false, true, kStream, T>(p, plane, begin, count) : differentiate<false, false, kStream, T>(p, plane, begin, count);
  }
}

template <typename T>
void plane_differentiate(const Problem& p, int64_t plane, int64_t piece) {
  differentiate_any<false, T>(p, plane, piece * kPlanePiece, piece_size(p.area, kPlanePiece, piece));
}

template <typename T>
void backward_planes(const Problem& p, int64_t begin, int64_t end) {
  const std::unique_ptr<Pair[]> sums(new Pair[p.pieces()]);
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int64_t piece = 0; piece < p.pieces(); ++piece) plane_gradient_sums<T>(p, plane, piece, sums.get());
    plane_gradients(p, plane, sums.get());
    p.stream ? differentiate_any<true, T>(p, plane, 0, p.area) : differentiate_any<false, T>(p, plane, 0, p.area);
  }
  if (p.stream) stream_end();
}

// ---- backward, channels_last; rows: scale * rstd, bias, level, slope

template <typename T>
void pixel_affine(const Problem& p, int64_t sample, float* rows) {
  for (int64_t c = 0; c < p.channels; ++c) {
    rows[c] = value_at<T>(p.scale, sample, c) * p.rstd[sample * p.channels + c];
    rows[p.channels + c] = value_at<T>(p.bias, sample, c);
  }
}

template <int kVectors, bool kWhole, bool kRelu, typename T>
SIMD_INLINE void column_gradient_sums(
    const Problem& p, int64_t sample, int64_t first, int64_t c, int64_t pixels, int64_t count, const float* rows, float* sums) {
  const int64_t start = first * p.channels + c;
  const T *grad = static_cast<const T*>(p.grad_y) + start, *h = static_cast<const T*>(p.source) + start;
  Floats totals[kVectors] = {}, products[kVectors] = {}, mean[kVectors], scale[kVectors], bias[kVectors];
  for (int k = 0; k < kVectors; ++k) {
    mean[k] = get<kWhole>(p.mean + sample * p.channels + c + k * kLanes, count);
    scale[k] = get<kWhole>(rows + c + k * kLanes, count);
    bias[k] = get<kWhole>(rows + p.channels + c + k * kLanes, count);
  }
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    Floats total[kVectors] = {}, product[kVectors] = {};
    for (int64_t pixel = begin; pixel < pixels && pixel < begin + kBlock; ++pixel) {
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        const int64_t at = pixel * p.channels + k * kLanes;
        const Floats distance = get<kWhole>(h + at, count) - mean[k];
        const Floats g = masked<kRelu>(get<kWhole>(grad + at, count), distance, scale[k], bias[k]);
        total[k] += g;
        product[k] += g * distance;
      }
    }
    for (int k = 0; k < kVectors; ++k) {
      totals[k] += total[k];
      products[k] += product[k];
    }
  }
  for (int k = 0; k < kVectors; ++k) {
    put<kWhole>(sums + c + k * kLanes, totals[k], count);
    put<kWhole>(sums + p.channels + c + k * kLanes, products[k], count);
  }
}

template <bool kRelu, typename T>
SIMD_INLINE void row_gradient_sums(const Problem& p, int64_t sample, int64_t first, int64_t pixels, const float* rows, float* sums) {
  int64_t c = 0;
  for (; c + kUnroll * kLanes <= p.channels; c += kUnroll * kLanes) {
    column_gradient_sums<kUnroll, true, kRelu, T>(p, sample, first, c, pixels, kLanes, rows, sums);
  }
  for (; c + kLanes <= p.channels; c += kLanes) column_gradient_sums<1, true, kRelu, T>(p, sample, first, c, pixels, kLanes, rows, sums);
  if (c < p.channels) column_gradient_sums<1, false, kRelu, T>(p, sample, first, c, pixels, p.channels - c, rows, sums);
}

template <typename T>
void pixel_gradient_sums(const Problem& p, int64_t sample, int64_t piece, const float* rows, float* sums) {
  const int64_t first = sample * p.area + piece * p.pixels(), pixels = piece_size(p.area, p.pixels(), piece);
  sums += piece * 2 * p.channels;
  p.relu ? row_gradient_sums<true, T>(p, sample, first, pixels, rows, sums) : row_gradient_sums<false, T>(p, sample, first, pixels, rows, sums);
}

inline void pixel_gradients(const Problem& p, int64_t sample, float* rows, const float* sums) {
  const int64_t channels = p.channels;
  float *grad_bias = p.grad_bias + sample * channels, *grad_scale = p.grad_scale + sample * channels;
  const float *rstd = p.rstd + sample * channels, share = 1.0f / static_cast<float>(p.area);
  for (int64_t c = 0; c < channels; ++c) grad_bias[c] = grad_scale[c] = 0;
  for (int64_t piece = 0; piece < p.pixel_pieces(); ++piece) {
    const float* row = sums + piece * 2 * channels;
    for (int64_t c = 0; c < channels; ++c) {
      grad_bias[c] += row[c];
      grad_scale[c] += row[channels + c];
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    grad_scale[c] *= rstd[c];
    rows[2 * channels + c] = grad_bias[c] * share;
    rows[3 * channels + c] = grad_scale[c] * share * rstd[c];
  }
}

template <bool kWhole, bool kRelu, typename T>
SIMD_INLINE Floats gradient(const Problem& p, int64_t sample, int64_t pixel, int64_t c, int64_t count, const float* rows) {
  const int64_t channels = p.channels, at = pixel * channels + c;
  const Floats distance = get<kWhole>(static_cast<const T*>(p.source) + at, count) - get<kWhole>(p.mean + sample * channels + c, count);
  const Floats scale = get<kWhole>(rows + c, count);
  const Floats grad = get<kWhole>(static_cast<const T*>(p.grad_y) + at, count);
  const Floats g = masked<kRelu>(grad, distance, scale, get<kWhole>(rows + channels + c, count));
  const Floats v = scale * (g - get<kWhole>(rows + 2 * channels + c, count) - distance * get<kWhole>(rows + 3 * channels + c, count));
  return p.grad_h ? v + get<kWhole>(static_cast<const T*>(p.grad_h) + at, count) : v;
}

template <bool kRelu, bool kStream, typename T>
SIMD_INLINE void pixel_differentiate(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  const int64_t channels = p.channels, first = sample * p.area + piece * p.pixels(), pixels = piece_size(p.area, p.pixels(), piece);
  for (int64_t pixel = first; pixel < first + pixels; ++pixel) {
    T* result = static_cast<T*>(p.result) + pixel * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      put_result<kStream>(result + c, gradient<true, kRelu, T>(p, sample, pixel, c, kLanes, rows));
    }
    if (c < channels) store_part(result + c, gradient<false, kRelu, T>(p, sample, pixel, c, channels - c, rows), channels - c);
  }
  if (kStream) stream_end();
}

template <typename T>
void pixel_backward(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  if (p.relu) {
    p.stream ? pixel_differentiate<true, true, T>(p, sample, piece, rows) : pixel_differentiate<true, false, T>(p, sample, piece, rows);
  } else {
    p.stream ? pixel_differentiate<false, true, T>(p, sample, piece, rows) : pixel_differentiate<false, false, T>(p, sample, piece, rows);
  }
}

template <typename T>
constexpr Kernels kForward = {
    sizeof(T), forward_planes<T>, plane_moments<T>, plane_statistics, plane_normalise<T>,
    pixel_nothing, pixel_moments<T>, pixel_statistics<T>, pixel_forward<T>};
template <typename T>
constexpr Kernels kBackward = {
    sizeof(T), backward_planes<T>, plane_gradient_sums<T>, plane_gradients, plane_differentiate<T>,
    pixel_affine<T>, pixel_gradient_sums<T>, pixel_gradients, pixel_backward<T>};

#else

namespace talkinghead {
namespace {

// A fresh allocation of many pages costs more to touch than to fill; where the kernel offers large pages on request, ask for them.
void ask_for_large_pages([[maybe_unused]] const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t page = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + tensor.numel() * tensor.element_size()) / page * page;
  if (end > begin && static_cast<int64_t>(end - begin) >= kHugeBytes) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Whether tasks of equal size keep all threads busy.
bool shares_evenly(int64_t tasks, int64_t threads) {
  return tasks % threads == 0 || tasks >= 8 * threads;
}

void run_planes(const Problem& p, const Kernels& kernels, int64_t threads) {
  const int64_t planes = p.batch * p.channels, pieces = p.pieces();
  if (pieces == 1 || shares_evenly(planes, threads)) {
    torch::stable::parallel_for(
        0, planes, std::max<int64_t>(1, kGrain / p.area), [&](int64_t begin, int64_t end) { kernels.planes(p, begin, end); });
    return;
  }
  const std::unique_ptr<Pair[]> sums(new Pair[planes * pieces]);
  torch::stable::parallel_for(0, planes * pieces, kGrain / kPlanePiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels.plane_sums(p, i / pieces, i % pieces, sums.get() + i / pieces * pieces);
  });
  for (int64_t plane = 0; plane < planes; ++plane) kernels.plane_finish(p, plane, sums.get() + plane * pieces);
  torch::stable::parallel_for(0, planes * pieces, kGrain / kPlanePiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = end - 1; i >= begin; --i) kernels.plane_apply(p, i / pieces, i % pieces);
  });
}

void run_pixels(const Problem& p, const Kernels& kernels, int64_t threads) {
  const int64_t pieces = p.pixel_pieces(), sample_size = p.area * p.channels;
  const int64_t scratch_size = (4 + 2 * pieces) * p.channels;
  if (pieces == 1 || (shares_evenly(p.batch, threads) && sample_size * kernels.element_size <= (4 << 20))) {
    torch::stable::parallel_for(0, p.batch, std::max<int64_t>(1, kGrain / sample_size), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<float[]> scratch(new float[scratch_size]);
      float *rows = scratch.get(), *sums = rows + 4 * p.channels;
      for (int64_t sample = begin; sample < end; ++sample) {
        kernels.pixel_begin(p, sample, rows);
        for (int64_t piece = 0; piece < pieces; ++piece) kernels.pixel_sums(p, sample, piece, rows, sums);
        kernels.pixel_finish(p, sample, rows, sums);
        for (int64_t piece = pieces - 1; piece >= 0; --piece) kernels.pixel_apply(p, sample, piece, rows);
      }
    });
    return;
  }
  const std::unique_ptr<float[]> scratch(new float[scratch_size]);
  float *rows = scratch.get(), *sums = rows + 4 * p.channels;
  for (int64_t sample = 0; sample < p.batch; ++sample) {
    kernels.pixel_begin(p, sample, rows);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) kernels.pixel_sums(p, sample, piece, rows, sums);
    });
    kernels.pixel_finish(p, sample, rows, sums);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = end - 1; piece >= begin; --piece) kernels.pixel_apply(p, sample, piece, rows);
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
  const int64_t row = (planes ? p.area : p.channels) * kernels.element_size, bytes = p.batch * p.channels * p.area * kernels.element_size;
  p.stream = bytes >= kStreamBytes && row % 64 == 0 && reinterpret_cast<uintptr_t>(p.result) % 64 == 0;
  const int64_t threads = torch::stable::get_num_threads();
  planes ? run_planes(p, kernels, threads) : run_pixels(p, kernels, threads);
}

const Kernels& kernels_for(ScalarType dtype, bool forward) {
  if (dtype == ScalarType::Float) return *(forward ? SIMD_BEST(kForward<float>) : SIMD_BEST(kBackward<float>));
  if (dtype == ScalarType::BFloat16) return *(forward ? SIMD_BEST(kForward<BFloat16>) : SIMD_BEST(kBackward<BFloat16>));
  STD_TORCH_CHECK(dtype == ScalarType::Half, "adain: x must be float32, bfloat16 or float16");
  return *(forward ? SIMD_BEST(kForward<Half>) : SIMD_BEST(kBackward<Half>));
}

// What would read or write out of bounds; Python has checked the rest.
void check(const Tensor& like, const std::optional<Tensor>& tensor) {
  if (!tensor) return;
  STD_TORCH_CHECK(
      tensor->dim() == 4 && tensor->numel() == like.numel() && tensor->scalar_type() == like.scalar_type() &&
          tensor->is_contiguous() == like.is_contiguous(),
      "adain: tensors must agree in size, dtype and memory format");
}

void check_values(const Tensor& like, const Tensor& values) {
  STD_TORCH_CHECK(
      values.dim() == 2 && values.size(0) == like.size(0) && values.size(1) == like.size(1) &&
          (values.scalar_type() == ScalarType::Float || values.scalar_type() == like.scalar_type()) &&
          (values.stride(1) == 1 || values.size(1) == 1),
      "adain: scale, bias and statistics must be [B, C] with second stride 1");
}

void check_rows(const Tensor& like, const Tensor& values) {
  check_values(like, values);
  STD_TORCH_CHECK(
      values.scalar_type() == ScalarType::Float && values.is_contiguous(), "adain: statistics must be float32 and contiguous");
}

void adain_forward(
    const Tensor& x,
    const std::optional<Tensor>& residual,
    const Tensor& scale,
    const Tensor& bias,
    double eps,
    bool relu,
    Tensor y,
    const std::optional<Tensor>& h,
    Tensor mean,
    Tensor rstd) {
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

void adain_backward(
    const Tensor& grad_y,
    const std::optional<Tensor>& grad_h,
    const Tensor& h,
    const Tensor& scale,
    const Tensor& bias,
    const Tensor& mean,
    const Tensor& rstd,
    bool relu,
    Tensor grad_x,
    Tensor grad_scale,
    Tensor grad_bias) {
  for (const auto& tensor : {std::optional<Tensor>(grad_y), grad_h, std::optional<Tensor>(grad_x)}) check(h, tensor);
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
