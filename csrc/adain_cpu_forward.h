// A part of adain_cpu.cpp, compiled once for each instruction set.

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
  for (; i + kLanes <= count; i += kLanes)
    sums[0] += take<true, kResidual>(x + i, residual + i, h + i, kLanes);
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
    const Floats distance =
        left >= kLanes ? load(source + i) - mean
                       : where(first_lanes(left), load_part(source + i, left) - mean, Floats{});
    distances[0] += distance;
    squares[0] += distance * distance;
  }
  const float rest = sum((distances[0] + distances[1]) + (distances[2] + distances[3]));
  const float correction = rest / static_cast<float>(count);
  return {
      mean + correction,
      sum((squares[0] + squares[1]) + (squares[2] + squares[3])) - rest * correction};
}

template <typename T>
SIMD_INLINE float piece_mean(const Problem& p, int64_t plane, int64_t piece) {
  const int64_t start = plane * p.area + piece * kPlanePiece,
                count = piece_size(p.area, kPlanePiece, piece);
  const T* x = static_cast<const T*>(p.source) + start;
  if (!p.residual) return mean_of<false, T>(x, nullptr, nullptr, count);
  return mean_of<true>(
      x, static_cast<const T*>(p.residual) + start, static_cast<T*>(p.h) + start, count);
}

template <typename T>
SIMD_INLINE Pair piece_moments_about(float mean, const Problem& p, int64_t plane, int64_t piece) {
  const T* source =
      static_cast<const T*>(p.residual ? p.h : p.source) + plane * p.area + piece * kPlanePiece;
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
    const float before = static_cast<float>(piece * kPlanePiece),
                added = static_cast<float>(piece_size(p.area, kPlanePiece, piece));
    const float distance = sums[piece].first - mean, share = added / (before + added);
    mean += distance * share;
    squares += sums[piece].second + distance * distance * share * before;
  }
  p.mean[plane] = mean;
  p.rstd[plane] = rstd_of(p, squares);
}

template <bool kStream, typename T>
SIMD_INLINE void normalise(const Problem& p, int64_t plane, int64_t begin, int64_t count) {
  const int64_t start = plane * p.area + begin, sample = plane / p.channels,
                channel = plane % p.channels;
  const T* h = static_cast<const T*>(p.residual ? p.h : p.source) + start;
  T* y = static_cast<T*>(p.result) + start;
  const Floats mean = splat(p.mean[plane]),
               scale = splat(value_at<T>(p.scale, sample, channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, sample, channel)),
               floor = splat(p.relu ? 0.0f : -__builtin_inff());
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Twin v = load2(h + i);
    put_result2<kStream>(
        y + i, {at_least(floor, (v.first - mean) * scale + bias),
                at_least(floor, (v.second - mean) * scale + bias)});
  }
  for (; i < count; i += kLanes) {
    const int64_t left = count - i;
    const Floats v =
        ((left >= kLanes ? load(h + i) : load_part(h + i, left)) - mean) * scale + bias;
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

// Small planes go in groups, a step for all before the next: steps of one plane wait for each
// other, those of a group do not.
template <typename T>
SIMD_INLINE void small_plane_statistics(const Problem& p, int64_t begin, int64_t end) {
  Pair sums[kGroup];
  for (int64_t plane = begin; plane < end; ++plane)
    sums[plane - begin].first = piece_mean<T>(p, plane, 0);
  for (int64_t plane = begin; plane < end; ++plane) {
    sums[plane - begin] = piece_moments_about<T>(sums[plane - begin].first, p, plane, 0);
  }
  for (int64_t plane = begin; plane < end; ++plane)
    plane_statistics(p, plane, sums + (plane - begin));
}

template <typename T>
void forward_planes(const Problem& p, int64_t begin, int64_t end) {
  const int64_t pieces = p.pieces();
  const int64_t fitting = kPlanePiece / p.area, group = fitting < 1        ? 1
                                                        : fitting < kGroup ? fitting
                                                                           : kGroup;
  const std::unique_ptr<Pair[]> sums(new Pair[pieces]);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = first + group < end ? first + group : end;
    if (pieces == 1) {
      small_plane_statistics<T>(p, first, last);
    } else {
      for (int64_t piece = 0; piece < pieces; ++piece)
        plane_moments<T>(p, first, piece, sums.get());
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
SIMD_INLINE void column_moments(
    const Problem& p, int64_t start, int64_t pixels, int64_t count, float* means, float* squares) {
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
        const Floats distance =
            get<kWhole>(source + pixel * p.channels + k * kLanes, count) - mean[k];
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
    column_moments<kUnroll, true, kResidual, T>(
        p, start + c, pixels, kLanes, sums + c, sums + p.channels + c);
  }
  for (; c + kLanes <= p.channels; c += kLanes) {
    column_moments<1, true, kResidual, T>(
        p, start + c, pixels, kLanes, sums + c, sums + p.channels + c);
  }
  if (c < p.channels) {
    column_moments<1, false, kResidual, T>(
        p, start + c, pixels, p.channels - c, sums + c, sums + p.channels + c);
  }
}

template <typename T>
void pixel_moments(const Problem& p, int64_t sample, int64_t piece, const float*, float* sums) {
  const int64_t start = (sample * p.area + piece * p.pixels()) * p.channels,
                pixels = piece_size(p.area, p.pixels(), piece);
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
    const float before = static_cast<float>(piece * p.pixels()),
                added = static_cast<float>(piece_size(p.area, p.pixels(), piece));
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
SIMD_INLINE void pixel_normalise(
    const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  const int64_t channels = p.channels, first = sample * p.area + piece * p.pixels(),
                pixels = piece_size(p.area, p.pixels(), piece);
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
      const Floats v =
          (load_part(h + c, left) - load_part(mean + c, left)) * load_part(scale + c, left) +
          load_part(bias + c, left);
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
