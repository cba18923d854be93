// The arithmetic of cpu/spectral_norm.cpp, on rows of a weight and on tiles of sixteen of its
// kernels. Compiled by simd.h.
#include "simd.h"

// ---- rows

constexpr int64_t kSums = 4;  // of a dot product, side by side

SIMD_INLINE double total(const Floats* sums) {
  return double(sum((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

// sum of a[i] b[i]; in float within a row, so rows of a matrix are added in double
template <class T>
double dot(const T* a, const float* b, int64_t count) {
  Floats sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes <= count; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kSums; ++k)
      sums[k] += load(a + i + k * kLanes) * load(b + i + k * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] += load(a + i) * load(b + i);
  if (i < count) sums[1] += load_part(a + i, count - i) * load_part(b + i, count - i);
  return total(sums);
}

// sum += scale . rows, for `rows` rows
template <int kRows>
SIMD_INLINE void add_rows(const float* from, int64_t columns, const float* scale, float* sum) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    Floats added = load(from + i) * scale[0];
#pragma GCC unroll 4
    for (int r = 1; r < kRows; ++r) added += load(from + r * columns + i) * scale[r];
    store(sum + i, load(sum + i) + added);
  }
  for (; i < columns; ++i) {
    float added = from[i] * scale[0];
    for (int r = 1; r < kRows; ++r) added += from[r * columns + i] * scale[r];
    sum[i] += added;
  }
}

// s = W v and t = W^T s of some rows of W, which come from memory once
void advance(const float* weight, int64_t rows, int64_t columns, const float* v, float* s,
             float* t) {
  for (int64_t i = 0; i < columns; ++i) t[i] = 0;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    for (int64_t k = r; k < r + 4; ++k) s[k] = float(dot(weight + k * columns, v, columns));
    add_rows<4>(weight + r * columns, columns, s + r, t);
  }
  for (; r < rows; ++r) {
    s[r] = float(dot(weight + r * columns, v, columns));
    add_rows<1>(weight + r * columns, columns, s + r, t);
  }
}

void add(const float* from, int64_t count, float* to) {
  const float one = 1;
  add_rows<1>(from, count, &one, to);
}

template <bool kStream, class T>
SIMD_INLINE void store_value(T* to, Floats value) {
  if constexpr (kStream) {
    stream(to, value);
  } else {
    store(to, value);
  }
}

template <bool kStream, class T>
SIMD_INLINE void scale_as(const float* from, float factor, int64_t count, T* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_value<kStream>(to + i, load(from + i) * factor);
  if (i < count) store_part(to + i, load_part(from + i, count - i) * factor, count - i);
}

// to = from * factor; past the caches where the tensor is `large`, which asks for an aligned `to`
template <class T>
void scale(const float* from, float factor, int64_t count, bool large, T* to) {
  if (large) {
    scale_as<true>(from, factor, count, to);
    stream_end();
  } else {
    scale_as<false>(from, factor, count, to);
  }
}

template <bool kStream, class T>
SIMD_INLINE void subtract_as(const T* from, float factor, const float* v, float rank_one,
                             int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store_value<kStream>(to + i, load(from + i) * factor - load(v + i) * rank_one);
  if (i < count)
    store_part(to + i,
               load_part(from + i, count - i) * factor - load_part(v + i, count - i) * rank_one,
               count - i);
}

// to = from * factor - inner * u v^T, for some rows
template <class T>
void subtract(const T* from, float factor, float inner, const float* u, const float* v,
              int64_t rows, int64_t columns, bool large, float* to) {
  for (int64_t k = 0; k < rows * columns; k += columns) {
    const float rank_one = inner * u[k / columns];
    if (large && columns % kTile == 0) {
      subtract_as<true>(from + k, factor, v, rank_one, columns, to + k);
    } else {
      subtract_as<false>(from + k, factor, v, rank_one, columns, to + k);
    }
  }
  stream_end();
}

// ---- tiles

using Lane = float[kTile];  // one tap of sixteen kernels

SIMD_INLINE void box_sum(const Lane* in, int64_t step, Lane* out, int64_t out_step) {
  for (int64_t l = 0; l < kTile; l += kLanes) {
    const Floats a = load(in[0] + l), b = load(in[step] + l), c = load(in[2 * step] + l);
    store(out[0] + l, a);
    store(out[out_step] + l, a + b);
    store(out[2 * out_step] + l, b + c);
    store(out[3 * out_step] + l, c);
  }
}

SIMD_INLINE void box_adjoint(const Lane* in, int64_t step, Lane* out, int64_t out_step) {
  for (int64_t k = 0; k < 3; ++k) {
    for (int64_t l = 0; l < kTile; l += kLanes)
      store(out[k * out_step] + l, load(in[k * step] + l) + load(in[(k + 1) * step] + l));
  }
}

// three taps to a pair that sums the first two, and, `late` further on, a pair that sums the last
// two
SIMD_INLINE void pairs(const Lane* in, int64_t step, Lane* out, int64_t late, int64_t out_step) {
  for (int64_t l = 0; l < kTile; l += kLanes) {
    const Floats a = load(in[0] + l), b = load(in[step] + l), c = load(in[2 * step] + l);
    store(out[0] + l, a + b);
    store(out[out_step] + l, c);
    store(out[late] + l, a);
    store(out[late + out_step] + l, b + c);
  }
}

SIMD_INLINE void pairs_adjoint(const Lane* in, int64_t late, int64_t step, Lane* out,
                               int64_t out_step) {
  for (int64_t l = 0; l < kTile; l += kLanes) {
    const Floats a = load(in[0] + l), c = load(in[step] + l), d = load(in[late] + l),
                 e = load(in[late + step] + l);
    store(out[0] + l, a + d);
    store(out[out_step] + l, a + e);
    store(out[2 * out_step] + l, c + e);
  }
}

SIMD_INLINE void multiply(Lane* taps, int64_t count, float factor) {
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t l = 0; l < kTile; l += kLanes) store(taps[t] + l, load(taps[t] + l) * factor);
  }
}

// The 3x3 taps of a tile to the taps of their form: rows first, then columns, as `resample.fold`
// sums.
SIMD_INLINE void fold(int64_t form, const Lane* in, Lane* out) {
  alignas(64) Lane rows[12];
  if (form == kUpsampleShuffle) {
    // rows: [late][row of 2][column of 3]; out: [late row][late column][row][column]
    for (int64_t x = 0; x < 3; ++x) pairs(in + x, 3, rows + x, 6, 3);
    for (int64_t late = 0; late < 2; ++late) {
      for (int64_t y = 0; y < 2; ++y)
        pairs(rows + late * 6 + y * 3, 1, out + late * 8 + y * 2, 4, 1);
    }
    return;
  }
  for (int64_t x = 0; x < 3; ++x) box_sum(in + x, 3, rows + x, 3);
  for (int64_t y = 0; y < 4; ++y) {
    if (form == kUpsample) {
      box_sum(rows + y * 3, 1, out + (15 - y * 4), -1);  // flipped
    } else {
      box_sum(rows + y * 3, 1, out + y * 4, 1);
    }
  }
  if (form == kDownsample) multiply(out, kFolded, 0.25f);
}

SIMD_INLINE void fold_adjoint(int64_t form, const Lane* in, Lane* out) {
  alignas(64) Lane rows[12];
  if (form == kUpsampleShuffle) {
    for (int64_t late = 0; late < 2; ++late) {
      for (int64_t y = 0; y < 2; ++y)
        pairs_adjoint(in + late * 8 + y * 2, 4, 1, rows + late * 6 + y * 3, 1);
    }
    for (int64_t x = 0; x < 3; ++x) pairs_adjoint(rows + x, 6, 3, out + x, 3);
    return;
  }
  for (int64_t x = 0; x < 4; ++x) {
    if (form == kUpsample) {
      box_adjoint(in + (15 - x), -4, rows + x, 4);
    } else {
      box_adjoint(in + x, 4, rows + x, 4);
    }
  }
  for (int64_t y = 0; y < 3; ++y) box_adjoint(rows + y * 4, 1, out + y * 3, 1);
  if (form == kDownsample) multiply(out, kTaps, 0.25f);
}

// The taps of `lanes` kernels that lie `step` apart; lanes behind them are left alone.
template <class T>
SIMD_INLINE void load_tile(const T* from, int64_t step, const int64_t* offset, int64_t taps,
                           int64_t lanes, Lane* tile) {
  alignas(64) T row[kTile] = {};
  for (int64_t t = 0; t < taps; ++t) {
    const T* at = from + offset[t];
    if (step == 1 && lanes == kTile) {
      for (int64_t l = 0; l < kTile; l += kLanes) store(tile[t] + l, load(at + l));
      continue;
    }
    if (lanes == kTile) {
      for (int64_t l = 0; l < kTile; ++l) row[l] = at[l * step];
    } else {
      for (int64_t l = 0; l < lanes; ++l) row[l] = at[l * step];
    }
    for (int64_t l = 0; l < kTile; l += kLanes) store(tile[t] + l, load(row + l));
  }
}

template <class T>
SIMD_INLINE void store_tile(T* to, int64_t step, const int64_t* offset, int64_t taps, int64_t lanes,
                            const Lane* tile) {
  if (step == 1 && lanes == kTile) {
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t l = 0; l < kTile; l += kLanes) store(to + offset[t] + l, load(tile[t] + l));
    }
    return;
  }
  alignas(64) T narrowed[kFolded][kTile];
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t l = 0; l < kTile; l += kLanes) store(narrowed[t] + l, load(tile[t] + l));
  }
  for (int64_t l = 0; l < lanes; ++l) {
    for (int64_t t = 0; t < taps; ++t) to[offset[t] + l * step] = narrowed[t][l];
  }
}

// Writes a tile of a weight [., ., 3, 3], times factor, in its form. `step` is the distance of
// kernels in the weight, `form_step` in the form.
template <class T>
void write_tile(const float* weight, int64_t step, int64_t lanes, float factor,
                const Layout& layout, int64_t form_step, T* to) {
  alignas(64) Lane taps[kFolded], folded[kFolded];
  load_tile(weight, step, kSuccessive, kTaps, lanes, taps);
  multiply(taps, kTaps, factor);
  if (layout.form != kPlain) fold(layout.form, taps, folded);
  store_tile(to, form_step, layout.offset, layout.taps, lanes,
             layout.form == kPlain ? taps : folded);
}

// Computes the gradient of the weight from the gradient of its form, for a tile.
template <class T>
void read_tile(const T* grad, int64_t form_step, const Layout& layout, int64_t lanes, int64_t step,
               float* grad_weight) {
  alignas(64) Lane taps[kFolded], folded[kFolded];
  load_tile(grad, form_step, layout.offset, layout.taps, lanes, folded);
  if (layout.form != kPlain) fold_adjoint(layout.form, folded, taps);
  store_tile(grad_weight, step, kSuccessive, kTaps, lanes, layout.form == kPlain ? folded : taps);
}
