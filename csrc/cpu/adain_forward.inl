// Part of cpu/adain.cpp, compiled once for each instruction set.

// ---- forward, planes

// x and residual from an element on. h is computed twice, which takes less time than reading it.
template <typename T>
struct Terms {
  const T *x, *residual;
};
template <bool kResidual, typename T>
SIMD_INLINE Terms<T> terms_at(const Problem& p, int64_t start) {
  return {static_cast<const T*>(p.source) + start,
          kResidual ? static_cast<const T*>(p.residual) + start : nullptr};
}

template <bool kWhole, bool kResidual, typename T>
SIMD_INLINE Floats take(Terms<T> from, int64_t at, int64_t count) {
  const Floats x = get<kWhole>(from.x + at, count);
  if constexpr (!kResidual) return x;
  return round_to(x + get<kWhole>(from.residual + at, count), T());
}
template <bool kResidual, typename T>
SIMD_INLINE Twin take2(Terms<T> from, int64_t at) {
  if constexpr (!kResidual) return load2(from.x + at);
  const Twin a = load2(from.x + at), b = load2(from.residual + at);
  return round_to2({a.first + b.first, a.second + b.second}, T());
}

// Moments of the elements of each lane: mean and sum of squared deviations. `carry` is what the
// rounding of the mean has lost so far (Kahan 1965): without it, the many small steps towards the
// mean of a long plane add up to an error of several ulps.
struct LaneMoments {
  Floats mean, squares, carry;
};

// Adds kCount vectors to moments of `before` vectors. The moments of the new vectors are computed
// in registers, then merged (Chan et al. 1979): each vector is read once, and no large numbers
// cancel.
template <int kCount>
SIMD_INLINE void merge(LaneMoments& m, const Floats* v, float before) {
  Floats total = v[0];
#pragma GCC unroll 8
  for (int k = 1; k < kCount; ++k) total += v[k];
  const Floats mean = total * (1.0f / kCount);
  Floats squares = {};
#pragma GCC unroll 8
  for (int k = 0; k < kCount; ++k) squares += (v[k] - mean) * (v[k] - mean);
  const float share = kCount / (before + kCount);
  const Floats distance = mean - m.mean;
  const Floats step = distance * share + m.carry, moved = m.mean + step;
  m.carry = step - (moved - m.mean);
  m.mean = moved;
  m.squares += squares + distance * distance * (share * before);
}

// of the complete vectors of a plane's piece
template <bool kResidual, typename T>
SIMD_INLINE LaneMoments lane_moments(Terms<T> from, int64_t count) {
  LaneMoments m = {};
  Floats v[kMerged];
  int64_t i = 0;
  float before = 0;
  for (; i + kMerged * kLanes <= count; i += kMerged * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kMerged; k += 2) {
      const Twin twin = take2<kResidual>(from, i + k * kLanes);
      v[k] = twin.first;
      v[k + 1] = twin.second;
    }
    merge<kMerged>(m, v, before);
    before += kMerged;
  }
  for (; i + kLanes <= count; i += kLanes) {
    v[0] = take<true, kResidual>(from, i, kLanes);
    merge<1>(m, v, before);
    before += 1;
  }
  return m;
}

// Merges the lanes and the remaining elements of the piece.
template <bool kResidual, typename T>
SIMD_INLINE Pair merge_lanes(const LaneMoments& m, Terms<T> from, int64_t count) {
  const int64_t remaining = count % kLanes, whole = count - remaining;
  Pair all = {};
  if (whole > 0) {
    all.first = sum(m.mean) / kLanes;
    const Floats distance = m.mean - all.first;
    all.second = sum(m.squares + distance * distance * static_cast<float>(whole / kLanes));
  }
  if (remaining == 0) return all;
  const Floats v = take<false, kResidual>(from, whole, remaining);
  const float added = static_cast<float>(remaining), before = static_cast<float>(whole);
  const float mean = sum(v) / added, apart = mean - all.first, share = added / (before + added);
  const Floats distance = where(first_lanes(remaining), v - mean, Floats{});
  all.first += apart * share;
  all.second += sum(distance * distance) + apart * apart * (share * before);
  return all;
}

struct PieceAt {
  int64_t start, count;
};
SIMD_INLINE PieceAt piece_at(const Problem& p, int64_t plane, int64_t piece) {
  return {plane * p.area + piece * kPlanePiece, piece_size(p.area, kPlanePiece, piece)};
}

template <typename T>
SIMD_INLINE LaneMoments piece_lanes(const Problem& p, PieceAt at) {
  return p.residual ? lane_moments<true>(terms_at<true, T>(p, at.start), at.count)
                    : lane_moments<false>(terms_at<false, T>(p, at.start), at.count);
}

template <typename T>
SIMD_INLINE Pair piece_moments(const Problem& p, PieceAt at, const LaneMoments& m) {
  return p.residual ? merge_lanes<true>(m, terms_at<true, T>(p, at.start), at.count)
                    : merge_lanes<false>(m, terms_at<false, T>(p, at.start), at.count);
}

template <typename T>
void plane_moments(const Problem& p, int64_t plane, int64_t piece, Pair* sums) {
  const PieceAt at = piece_at(p, plane, piece);
  sums[piece] = piece_moments<T>(p, at, piece_lanes<T>(p, at));
}

inline void set_statistics(const Problem& p, int64_t plane, Pair moments) {
  p.mean[plane] = moments.first;
  p.rstd[plane] = rstd_of(p, moments.second);
}

// Merges the moments of a plane's pieces.
inline void plane_statistics(const Problem& p, int64_t plane, const Pair* sums) {
  float mean = sums[0].first, squares = sums[0].second;
  for (int64_t piece = 1; piece < p.pieces(); ++piece) {
    const float before = static_cast<float>(piece * kPlanePiece),
                added = static_cast<float>(piece_size(p.area, kPlanePiece, piece));
    const float distance = sums[piece].first - mean, share = added / (before + added);
    mean += distance * share;
    squares += sums[piece].second + distance * distance * share * before;
  }
  set_statistics(p, plane, {mean, squares});
}

template <bool kStream, bool kResidual, typename T>
SIMD_INLINE void normalise(const Problem& p, int64_t plane, Place place, int64_t begin,
                           int64_t count) {
  const int64_t start = plane * p.area + begin;
  const Terms<T> from = terms_at<kResidual, T>(p, start);
  T *y = static_cast<T*>(p.result) + start, *h = kResidual ? static_cast<T*>(p.h) + start : nullptr;
  const Floats mean = splat(p.mean[plane]),
               scale = splat(value_at<T>(p.scale, place.sample, place.channel) * p.rstd[plane]);
  const Floats bias = splat(value_at<T>(p.bias, place.sample, place.channel)),
               floor = splat(p.relu ? 0.0f : -__builtin_inff());
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
#pragma GCC unroll 2
    for (int k = 0; k < kUnroll; k += 2) {
      const int64_t at = i + k * kLanes;
      const Twin v = take2<kResidual>(from, at);
      if constexpr (kResidual) put_result2<kStream>(h + at, v);
      put_result2<kStream>(y + at, {at_least(floor, (v.first - mean) * scale + bias),
                                    at_least(floor, (v.second - mean) * scale + bias)});
    }
  }
  for (; i + kLanes <= count; i += kLanes) {
    const Floats v = take<true, kResidual>(from, i, kLanes);
    if constexpr (kResidual) store_result<kStream>(h + i, v);
    store_result<kStream>(y + i, at_least(floor, (v - mean) * scale + bias));
  }
  if (const int64_t remaining = count - i; remaining > 0) {
    const Floats v = take<false, kResidual>(from, i, remaining);
    if constexpr (kResidual) store_part(h + i, v, remaining);
    store_part(y + i, at_least(floor, (v - mean) * scale + bias), remaining);
  }
}

template <bool kStream, typename T>
SIMD_INLINE void normalise_any(const Problem& p, int64_t plane, Place place, int64_t begin,
                               int64_t count) {
  p.residual ? normalise<kStream, true, T>(p, plane, place, begin, count)
             : normalise<kStream, false, T>(p, plane, place, begin, count);
}

template <typename T>
void plane_normalise(const Problem& p, int64_t plane, int64_t piece) {
  normalise_any<false, T>(p, plane, place_of(p, plane), piece * kPlanePiece,
                          piece_size(p.area, kPlanePiece, piece));
}

// Small planes are processed in groups, one step for all planes before the next: the steps of one
// plane depend on each other, those of different planes do not.
template <typename T>
SIMD_INLINE void small_plane_statistics(const Problem& p, int64_t begin, int64_t end) {
  LaneMoments lanes[kGroup];
  for (int64_t plane = begin; plane < end; ++plane)
    lanes[plane - begin] = piece_lanes<T>(p, piece_at(p, plane, 0));
  for (int64_t plane = begin; plane < end; ++plane) {
    set_statistics(p, plane, piece_moments<T>(p, piece_at(p, plane, 0), lanes[plane - begin]));
  }
}

template <typename T>
void forward_planes(const Problem& p, int64_t begin, int64_t end) {
  const int64_t pieces = p.pieces();
  const int64_t fitting = kPlanePiece / p.area, group = fitting < 1        ? 1
                                                        : fitting < kGroup ? fitting
                                                                           : kGroup;
  const std::unique_ptr<Pair[]> sums(new Pair[pieces]);
  Place place = place_of(p, begin);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = first + group < end ? first + group : end;
    if (pieces == 1) {
      small_plane_statistics<T>(p, first, last);
    } else {
      for (int64_t piece = 0; piece < pieces; ++piece)
        plane_moments<T>(p, first, piece, sums.get());
      plane_statistics(p, first, sums.get());
    }
    for (int64_t plane = first; plane < last; ++plane, step(p, place)) {
      p.stream ? normalise_any<true, T>(p, plane, place, 0, p.area)
               : normalise_any<false, T>(p, plane, place, 0, p.area);
    }
  }
  if (p.stream) stream_end();
}

// ---- forward, channels_last; rows: scale * rstd, bias

// Adds kCount pixels, all channels; the moments stay in the first-level cache.
template <int kCount, bool kResidual, typename T>
SIMD_INLINE void merge_pixels(const Problem& p, int64_t start, float before, float* sums) {
  const Terms<T> from = terms_at<kResidual, T>(p, start);
  const int64_t channels = p.channels;
  float *means = sums, *squares = sums + channels, *carries = squares + channels;
  Floats v[kCount];
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) v[k] = take<true, kResidual>(from, k * channels + c, kLanes);
    LaneMoments m = {load(means + c), load(squares + c), load(carries + c)};
    merge<kCount>(m, v, before);
    store(means + c, m.mean);
    store(squares + c, m.squares);
    store(carries + c, m.carry);
  }
  if (const int64_t remaining = channels - c; remaining > 0) {
    for (int k = 0; k < kCount; ++k)
      v[k] = take<false, kResidual>(from, k * channels + c, remaining);
    LaneMoments m = {load_part(means + c, remaining), load_part(squares + c, remaining),
                     load_part(carries + c, remaining)};
    merge<kCount>(m, v, before);
    store_part(means + c, m.mean, remaining);
    store_part(squares + c, m.squares, remaining);
    store_part(carries + c, m.carry, remaining);
  }
}

template <bool kResidual, typename T>
SIMD_INLINE void row_moments(const Problem& p, int64_t start, int64_t pixels, float* sums) {
  for (int64_t c = 0; c < kSumRows * p.channels; ++c) sums[c] = 0;
  int64_t pixel = 0;
  for (; pixel + kMerged <= pixels; pixel += kMerged) {
    merge_pixels<kMerged, kResidual, T>(p, start + pixel * p.channels, static_cast<float>(pixel),
                                        sums);
  }
  for (; pixel < pixels; ++pixel) {
    merge_pixels<1, kResidual, T>(p, start + pixel * p.channels, static_cast<float>(pixel), sums);
  }
}

template <typename T>
void pixel_moments(const Problem& p, int64_t sample, int64_t piece, const float*, float* sums) {
  const int64_t start = (sample * p.area + piece * p.pixels()) * p.channels,
                pixels = piece_size(p.area, p.pixels(), piece);
  sums += piece * kSumRows * p.channels;
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
    const float *means = sums + piece * kSumRows * channels, *more = means + channels;
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

// kCount pixels, all channels: what belongs to a channel is loaded once for them
template <int kCount, bool kStream, bool kResidual, typename T>
SIMD_INLINE void normalise_pixels(const Problem& p, int64_t pixel, const float* mean,
                                  const float* scale, const float* bias) {
  const int64_t channels = p.channels, start = pixel * channels;
  const Terms<T> from = terms_at<kResidual, T>(p, start);
  T *y = static_cast<T*>(p.result) + start, *h = kResidual ? static_cast<T*>(p.h) + start : nullptr;
  const Floats floor = splat(p.relu ? 0.0f : -__builtin_inff());
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Floats m = load(mean + c), s = load(scale + c), b = load(bias + c);
#pragma GCC unroll 4
    for (int64_t at = c; at < c + kCount * channels; at += channels) {
      const Floats v = take<true, kResidual>(from, at, kLanes);
      if constexpr (kResidual) store_result<kStream>(h + at, v);
      store_result<kStream>(y + at, at_least(floor, (v - m) * s + b));
    }
  }
  if (const int64_t remaining = channels - c; remaining > 0) {
    const Floats m = load_part(mean + c, remaining), s = load_part(scale + c, remaining),
                 b = load_part(bias + c, remaining);
    for (int64_t at = c; at < c + kCount * channels; at += channels) {
      const Floats v = take<false, kResidual>(from, at, remaining);
      if constexpr (kResidual) store_part(h + at, v, remaining);
      store_part(y + at, at_least(floor, (v - m) * s + b), remaining);
    }
  }
}

template <bool kStream, bool kResidual, typename T>
SIMD_INLINE void pixel_normalise(const Problem& p, int64_t sample, int64_t piece,
                                 const float* rows) {
  const float *mean = p.mean + sample * p.channels, *scale = rows, *bias = rows + p.channels;
  int64_t pixel = sample * p.area + piece * p.pixels();
  const int64_t end = pixel + piece_size(p.area, p.pixels(), piece);
  for (; pixel + kRows <= end; pixel += kRows)
    normalise_pixels<kRows, kStream, kResidual, T>(p, pixel, mean, scale, bias);
  for (; pixel < end; ++pixel)
    normalise_pixels<1, kStream, kResidual, T>(p, pixel, mean, scale, bias);
}

template <typename T>
void pixel_forward(const Problem& p, int64_t sample, int64_t piece, const float* rows) {
  if (p.residual) {
    p.stream ? pixel_normalise<true, true, T>(p, sample, piece, rows)
             : pixel_normalise<false, true, T>(p, sample, piece, rows);
  } else {
    p.stream ? pixel_normalise<true, false, T>(p, sample, piece, rows)
             : pixel_normalise<false, false, T>(p, sample, piece, rows);
  }
  if (p.stream) stream_end();
}

inline void pixel_nothing(const Problem&, int64_t, float*) {}
