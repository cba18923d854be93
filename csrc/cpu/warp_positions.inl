// Part of cpu/warp_by_landmarks.cpp: the sampling positions of the pixels of a row, and their
// weights.

typedef float Quad __attribute__((vector_size(16)));  // of any instruction set

SIMD_INLINE float sum4(Quad v) {
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
  return v[0] + v[1];
}

SIMD_INLINE Quad load4(const float* from) {
  Quad v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
SIMD_INLINE void store4(float* to, Quad v) { __builtin_memcpy(to, &v, sizeof v); }
SIMD_INLINE Quad load4(const BFloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(8)));
  typedef uint32_t Wholes __attribute__((vector_size(16)));
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return (Quad)(__builtin_convertvector(halves, Wholes) << 16);
}
SIMD_INLINE Quad load4(const Half* from) {
#if SIMD_BYTES == 16
  return (Quad)load(from);
#else
  return (Quad)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
}

// Buffers of a thread, parts of one allocation.
struct Buffers {
  float* row;                      // [2, w]: a row of the field, or of its gradient
  float *fraction_x, *fraction_y;  // [W]: distance of a position from its pixel
  int32_t *left, *top;             // [W]: that pixel
  float *shift_x, *shift_y;        // [W]: displacement of a pixel; backward, its gradient
  float* values;                   // [C, W] or [W, C]: the row's result or gradient
};

int64_t scratch_size(const Warp& w) {
  return whole(2 * w.columns) + 6 * whole(w.width) + whole(w.width * w.channels) + kPadding;
}

SIMD_INLINE Buffers cut(const Warp& w, float* scratch) {
  const int64_t width = whole(w.width);
  Buffers b;
  b.row = scratch;
  b.fraction_x = b.row + whole(2 * w.columns);
  b.fraction_y = b.fraction_x + width;
  b.left = reinterpret_cast<int32_t*>(b.fraction_y + width);
  b.top = b.left + width;
  b.shift_x = reinterpret_cast<float*>(b.top + width);
  b.shift_y = b.shift_x + width;
  b.values = b.shift_y + width;
  return b;
}

// The position at a displacement, in pixels, from `from`: the pixel before it, and the fraction,
// which is NaN if the displacement is not finite. The two are more accurate than their sum.
SIMD_INLINE void displace(Floats by, Ints from, float size, int32_t* pixel, float* fraction) {
  const Floats most = splat(size + kBeyond);
  Floats near = where(by > -most, by, -most);
  near = where(near < most, near, most);
  Ints below = __builtin_convertvector(near, Ints);
  below += __builtin_convertvector(below, Floats) > near;  // towards minus infinity; true is -1
  store(fraction, near - __builtin_convertvector(below, Floats) + (by - by));
  below += from;
  __builtin_memcpy(pixel, &below, sizeof below);
}

// Fills the buffers for a row of the image.
SIMD_INLINE void find_places(const Warp& w, int64_t sample, int64_t row, const Buffers& b) {
  const int64_t size = w.rows * w.columns;
  const float* field = w.motion + sample * 2 * size;
  const float down = w.down->fraction[row];
  const int64_t first = w.down->first[row] * w.columns, second = w.down->second[row] * w.columns;
  for (int64_t plane = 0; plane < 2; ++plane) {
    const float *upper = field + plane * size + first, *lower = field + plane * size + second;
    float* to = b.row + plane * w.columns;
    for (int64_t i = 0; i < w.columns; ++i) to[i] = upper[i] + down * (lower[i] - upper[i]);
  }
  const int32_t *before = w.across->first.get(), *after = w.across->second.get();
  const float *fraction = w.across->fraction.get(), *row_x = b.row, *row_y = b.row + w.columns;
  const float width = static_cast<float>(w.width), height = static_cast<float>(w.height);
  for (int64_t i = 0; i < w.width; ++i) {
    const float x0 = row_x[before[i]], y0 = row_y[before[i]];
    b.shift_x[i] = (x0 + fraction[i] * (row_x[after[i]] - x0)) * width;
    b.shift_y[i] = (y0 + fraction[i] * (row_y[after[i]] - y0)) * height;
  }
  for (int64_t i = w.width; i < whole(w.width); ++i) b.shift_x[i] = b.shift_y[i] = 0;
  Ints column;
  for (int32_t i = 0; i < kLanes; ++i) column[i] = i;
  const Ints line = Ints{} + static_cast<int32_t>(row);
  for (int64_t i = 0; i < w.width; i += kLanes) {
    const Ints here = column + static_cast<int32_t>(i);
    displace(load(b.shift_x + i), here, width, b.left + i, b.fraction_x + i);
    displace(load(b.shift_y + i), line, height, b.top + i, b.fraction_y + i);
  }
}

SIMD_INLINE Quad coefficients(int64_t power) { return load4(kCubic[3 - power]); }

SIMD_INLINE Quad cubic(float t) {
  return ((coefficients(3) * t + coefficients(2)) * t + coefficients(1)) * t + coefficients(0);
}

SIMD_INLINE Quad cubic_slope(float t) {
  return (coefficients(3) * (3 * t) + coefficients(2) * 2) * t + coefficients(1);
}

// Offsets of taps clamped to the border, in elements from the start of a plane or of a sample.
struct Taps {
  int64_t rows[4], columns[4];
};

SIMD_INLINE int64_t hold(int64_t index, int64_t size) {
  return index < 0 ? 0 : index >= size ? size - 1 : index;
}

SIMD_INLINE Taps taps_of(const Warp& w, int64_t left, int64_t top) {
  const int64_t step = w.channels_last ? w.channels : 1;
  Taps t;
  for (int64_t i = 0; i < 4; ++i) {
    t.rows[i] = hold(top - 1 + i, w.height) * w.width * step;
    t.columns[i] = hold(left - 1 + i, w.width) * step;
  }
  return t;
}

// Returns whether all 16 taps are different pixels and can be read four at a time. Four channels
// can be read too: the last may reach into the next row.
SIMD_INLINE bool is_inside(const Warp& w, int64_t left, int64_t top) {
  const int64_t beyond = w.channels_last && w.channels % 4 ? 1 : 0;
  return left >= 1 && left + 2 < w.width && top >= 1 && top + 2 + beyond < w.height;
}
