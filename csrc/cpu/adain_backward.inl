// Part of cpu/adain.cpp, compiled once for each instruction set.

// ---- backward, planes

// g: the gradient before the activation
template <bool kRelu>
SIMD_INLINE Floats masked(Floats grad, Floats distance, Floats scale, Floats bias) {
  if constexpr (!kRelu) return grad;
  return where(distance * scale + bias <= 0.0f, Floats{}, grad);
}

template <bool kRelu, typename T>
SIMD_INLINE Pair block_gradient_sums(const T* grad, const T* h, int64_t count, Floats mean,
                                     Floats scale, Floats bias) {
  Floats sums[kUnroll] = {}, products[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; k += 2) {
      const Twin v = load2(h + i + k * kLanes), grads = load2(grad + i + k * kLanes);
      const Floats first = v.first - mean, second = v.second - mean;
      const Floats g = masked<kRelu>(grads.first, first, scale, bias),
                   more = masked<kRelu>(grads.second, second, scale, bias);
      sums[k] += g;
      products[k] += g * first;
      sums[k + 1] += more;
      products[k + 1] += more * second;
    }
  }
  for (; i < count; i += kLanes) {
    const int64_t remaining = count - i;
    const bool whole = remaining >= kLanes;
    const Floats distance = (whole ? load(h + i) : load_part(h + i, remaining)) - mean;
    const Floats g = masked<kRelu>(whole ? load(grad + i) : load_part(grad + i, remaining),
                                   distance, scale, bias);
    sums[0] += g;
    products[0] += g * distance;
  }
  return {sum((sums[0] + sums[1]) + (sums[2] + sums[3])),
          sum((products[0] + products[1]) + (products[2] + products[3]))};
}

template <bool kRelu, typename T>
SIMD_INLINE Pair gradient_sums(const T* grad, const T* h, int64_t count, Floats mean, Floats scale,
                               Floats bias) {
  constexpr int64_t block = kBlock * kUnroll * kLanes;
  Pair total = {};
  for (int64_t i = 0; i < count; i += block) {
    const int64_t remaining = count - i;
    const Pair sums = block_gradient_sums<kRelu>(
        grad + i, h + i, remaining < block ? remaining : block, mean, scale, bias);
    total.first += sums.first;
    total.second += sums.second;
  }
  return total;
}

template <typename T>
SIMD_INLINE Pair piece_gradient_sums(const Problem& p, int64_t plane, Place place, int64_t piece) {
  const int64_t start = plane * p.area + piece * kPlanePiece,
                count = piece_size(p.area, kPlanePiece, piece);
  const Floats mean = splat(p.mean[plane]),
               scale = splat(value_at<T>(p.scale, place.sample, place.channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, place.sample, place.channel));
  const T *grad = static_cast<const T*>(p.grad_y) + start,
          *h = static_cast<const T*>(p.source) + start;
  return p.relu ? gradient_sums<true>(grad, h, count, mean, scale, bias)
                : gradient_sums<false>(grad, h, count, mean, scale, bias);
}

template <typename T>
void plane_gradient_sums(const Problem& p, int64_t plane, int64_t piece, Pair* sums) {
  sums[piece] = piece_gradient_sums<T>(p, plane, place_of(p, plane), piece);
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
SIMD_INLINE void differentiate(const Problem& p, int64_t plane, Place place, int64_t begin,
                               int64_t count) {
  const int64_t start = plane * p.area + begin;
  const T *grad = static_cast<const T*>(p.grad_y) + start,
          *h = static_cast<const T*>(p.source) + start;
  const T* more = kGradH ? static_cast<const T*>(p.grad_h) + start : nullptr;
  T* result = static_cast<T*>(p.result) + start;
  const float share = 1.0f / static_cast<float>(p.area);
  const Floats mean = splat(p.mean[plane]),
               scale = splat(value_at<T>(p.scale, place.sample, place.channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, place.sample, place.channel));
  const Floats level = splat(p.grad_bias[plane] * share),
               slope = splat(p.grad_scale[plane] * share * p.rstd[plane]);
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Twin v = load2(h + i), grads = load2(grad + i);
    const Floats first = v.first - mean, second = v.second - mean;
    Twin d = {scale * (masked<kRelu>(grads.first, first, scale, bias) - level - first * slope),
              scale * (masked<kRelu>(grads.second, second, scale, bias) - level - second * slope)};
    if constexpr (kGradH) {
      const Twin added = load2(more + i);
      d = {d.first + added.first, d.second + added.second};
    }
    put_result2<kStream>(result + i, d);
  }
  for (; i < count; i += kLanes) {
    const int64_t remaining = count - i < kLanes ? count - i : kLanes;
    const Floats distance = load_part(h + i, remaining) - mean;
    const Floats g = masked<kRelu>(load_part(grad + i, remaining), distance, scale, bias);
    Floats v = scale * (g - level - distance * slope);
    if constexpr (kGradH) v += load_part(more + i, remaining);
    store_part(result + i, v, remaining);
  }
}

template <bool kStream, typename T>
SIMD_INLINE void differentiate_any(const Problem& p, int64_t plane, Place place, int64_t begin,
                                   int64_t count) {
  if (p.relu) {
    p.grad_h ? differentiate<true, true, kStream, T>(p, plane, place, begin, count)
             : differentiate<true, false, kStream, T>(p, plane, place, begin, count);
  } else {
    p.grad_h ? differentiate<false, true, kStream, T>(p, plane, place, begin, count)
             : differentiate<false, false, kStream, T>(p, plane, place, begin, count);
  }
}

template <typename T>
void plane_differentiate(const Problem& p, int64_t plane, int64_t piece) {
  differentiate_any<false, T>(p, plane, place_of(p, plane), piece * kPlanePiece,
                              piece_size(p.area, kPlanePiece, piece));
}

template <typename T>
void backward_planes(const Problem& p, int64_t begin, int64_t end) {
  const std::unique_ptr<Pair[]> sums(new Pair[p.pieces()]);
  Place place = place_of(p, begin);
  for (int64_t plane = begin; plane < end; ++plane, step(p, place)) {
    for (int64_t piece = 0; piece < p.pieces(); ++piece)
      sums[piece] = piece_gradient_sums<T>(p, plane, place, piece);
    plane_gradients(p, plane, sums.get());
    p.stream ? differentiate_any<true, T>(p, plane, place, 0, p.area)
             : differentiate_any<false, T>(p, plane, place, 0, p.area);
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

// of some pixels, one vector of channels
template <bool kWhole, bool kRelu, typename T>
SIMD_INLINE void add_gradient_sums(const Problem& p, int64_t sample, int64_t first, int64_t c,
                                   int64_t pixels, int64_t count, const float* rows, float* sums) {
  const int64_t channels = p.channels, start = first * channels + c;
  const T *grad = static_cast<const T*>(p.grad_y) + start,
          *h = static_cast<const T*>(p.source) + start;
  const Floats mean = get<kWhole>(p.mean + sample * channels + c, count),
               scale = get<kWhole>(rows + c, count), bias = get<kWhole>(rows + channels + c, count);
  Floats total = {}, product = {};
  for (int64_t at = 0; at < pixels * channels; at += channels) {
    const Floats distance = get<kWhole>(h + at, count) - mean;
    const Floats g = masked<kRelu>(get<kWhole>(grad + at, count), distance, scale, bias);
    total += g;
    product += g * distance;
  }
  store_value<kWhole>(sums + c, get<kWhole>(sums + c, count) + total, count);
  store_value<kWhole>(sums + channels + c, get<kWhole>(sums + channels + c, count) + product,
                      count);
}

template <bool kRelu, typename T>
SIMD_INLINE void row_gradient_sums(const Problem& p, int64_t sample, int64_t first, int64_t pixels,
                                   const float* rows, float* sums) {
  for (int64_t c = 0; c < 2 * p.channels; ++c) sums[c] = 0;
  for (const int64_t end = first + pixels; first < end; first += kBlock) {
    const int64_t few = end - first < kBlock ? end - first : kBlock;
    int64_t c = 0;
    for (; c + kLanes <= p.channels; c += kLanes)
      add_gradient_sums<true, kRelu, T>(p, sample, first, c, few, kLanes, rows, sums);
    if (c < p.channels)
      add_gradient_sums<false, kRelu, T>(p, sample, first, c, few, p.channels - c, rows, sums);
  }
}

template <typename T>
void pixel_gradient_sums(const Problem& p, int64_t sample, int64_t piece, const float* rows,
                         float* sums) {
  const int64_t first = sample * p.area + piece * p.pixels(),
                pixels = piece_size(p.area, p.pixels(), piece);
  sums += piece * kSumRows * p.channels;
  p.relu ? row_gradient_sums<true, T>(p, sample, first, pixels, rows, sums)
         : row_gradient_sums<false, T>(p, sample, first, pixels, rows, sums);
}

inline void pixel_gradients(const Problem& p, int64_t sample, float* rows, const float* sums) {
  const int64_t channels = p.channels;
  float *grad_bias = p.grad_bias + sample * channels,
        *grad_scale = p.grad_scale + sample * channels;
  const float *rstd = p.rstd + sample * channels, share = 1.0f / static_cast<float>(p.area);
  for (int64_t c = 0; c < channels; ++c) grad_bias[c] = grad_scale[c] = 0;
  for (int64_t piece = 0; piece < p.pixel_pieces(); ++piece) {
    const float* row = sums + piece * kSumRows * channels;
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

// kCount pixels, one vector of channels; the values of a channel are loaded once for all of them.
template <int kCount, bool kWhole, bool kRelu, bool kStream, typename T>
SIMD_INLINE void differentiate_pixels(const Problem& p, int64_t sample, int64_t pixel, int64_t c,
                                      int64_t count, const float* rows) {
  const int64_t channels = p.channels, start = pixel * channels + c;
  const T *grad = static_cast<const T*>(p.grad_y) + start,
          *h = static_cast<const T*>(p.source) + start;
  const T* more = p.grad_h ? static_cast<const T*>(p.grad_h) + start : nullptr;
  T* result = static_cast<T*>(p.result) + start;
  const Floats mean = get<kWhole>(p.mean + sample * channels + c, count),
               scale = get<kWhole>(rows + c, count), bias = get<kWhole>(rows + channels + c, count),
               level = get<kWhole>(rows + 2 * channels + c, count),
               slope = get<kWhole>(rows + 3 * channels + c, count);
#pragma GCC unroll 4
  for (int64_t at = 0; at < kCount * channels; at += channels) {
    const Floats distance = get<kWhole>(h + at, count) - mean;
    const Floats g = masked<kRelu>(get<kWhole>(grad + at, count), distance, scale, bias);
    Floats v = scale * (g - level - distance * slope);
    if (more) v += get<kWhole>(more + at, count);
    if constexpr (kWhole) {
      store_result<kStream>(result + at, v);
    } else {
      store_part(result + at, v, count);
    }
  }
}

template <int kCount, bool kRelu, bool kStream, typename T>
SIMD_INLINE void differentiate_rows(const Problem& p, int64_t sample, int64_t pixel,
                                    const float* rows) {
  int64_t c = 0;
  for (; c + kLanes <= p.channels; c += kLanes)
    differentiate_pixels<kCount, true, kRelu, kStream, T>(p, sample, pixel, c, kLanes, rows);
  if (c < p.channels) {
    differentiate_pixels<kCount, false, kRelu, kStream, T>(p, sample, pixel, c, p.channels - c,
                                                           rows);
  }
}

template <bool kRelu, bool kStream, typename T>
SIMD_INLINE void pixel_differentiate(const Problem& p, int64_t sample, int64_t piece,
                                     const float* rows) {
  int64_t pixel = sample * p.area + piece * p.pixels();
  const int64_t end = pixel + piece_size(p.area, p.pixels(), piece);
  for (; pixel + kRows <= end; pixel += kRows)
    differentiate_rows<kRows, kRelu, kStream, T>(p, sample, pixel, rows);
  for (; pixel < end; ++pixel) differentiate_rows<1, kRelu, kStream, T>(p, sample, pixel, rows);
  if (kStream) stream_end();
}

template <typename T>
void pixel_backward(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  if (p.relu) {
    p.stream ? pixel_differentiate<true, true, T>(p, sample, piece, rows)
             : pixel_differentiate<true, false, T>(p, sample, piece, rows);
  } else {
    p.stream ? pixel_differentiate<false, true, T>(p, sample, piece, rows)
             : pixel_differentiate<false, false, T>(p, sample, piece, rows);
  }
}
